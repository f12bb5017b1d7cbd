"""docs/keys.md: a row for each key of the config, with its default and meaning."""

from collections.abc import Iterator
from itertools import chain

from opt_runner.config.components import Component, Node
from opt_runner.config.schema import Config
from tests import documents, keys


def schema_keys(node: type[Node] = Config, at: str = "") -> Iterator[tuple[str, object]]:
    """Yield the keys of the schema with their defaults, but `name` and `_target_`."""
    for name, field in node.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Node):
            yield from schema_keys(field.annotation, f"{at}{name}.")
        elif name not in Component.model_fields:
            required = field.is_required()
            yield f"{at}{name}", ... if required else field.get_default(call_default_factory=True)


def test_the_page_of_keys_is_as_conf_and_the_schema_are() -> None:
    """`python -m tests.keys > docs/keys.md` writes it again."""
    assert (documents.ROOT / "docs/keys.md").read_text() == keys.page()


def test_every_key_of_the_schema_has_a_meaning_and_one_default() -> None:
    found = [*keys.every_run()]
    for group in keys.GROUPS:
        of_group = chain.from_iterable(keys.choices(group).values())
        found += [key for key in of_group if key.key.startswith(group.replace("/", "."))]
    first = {key.key: key for key in reversed(found)}  # config.yaml comes first
    for name, default in schema_keys():
        if name not in ("method", "augment.then"):  # groups
            shown = first[name].default
            assert default in (..., tuple(shown) if isinstance(shown, list) else shown), name
    assert [key.key for key in found if not key.meaning] == []
