"""Prints docs/keys.md, the tables of all keys: `python -m tests.keys > docs/keys.md`.

Defaults and meanings are from conf/: the comment on a key's line is its meaning. Allowed values are
from the schema and from the signatures of classes and functions. Needs ray.
"""

import inspect
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import yaml
from hydra.utils import get_object
from pydantic import TypeAdapter

from hydra_plugins.opt_runner.launchers import RunLauncher
from opt_runner.config.components import Node
from opt_runner.config.compose import conf_dir
from opt_runner.config.options import GridOptions
from opt_runner.config.schema import Config, Role, has_roles
from opt_runner.sweep.entrants import ComparisonOptions
from opt_runner.sweep.search import SearchOptions

# The groups whose choices have keys.
GROUPS = [
    "method", "model", "dataset", "augment/then", "optimizer", "schedule", "hardware", "tracking",
    "hydra/launcher", "hydra/sweeper",
]  # fmt: skip
_SWEEPERS = {"grid": GridOptions, "optuna": SearchOptions, "fair": ComparisonOptions}
_ELSEWHERE = {"defaults", "hydra", "name", "_target_", "_convert_"}
_LARGE = 10**5  # limits beyond it are not shown: they only catch typing errors
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_HEAD = """\
# All keys

Every key of the config, grouped as `conf/` is. Write a key on the command line
(`optimizer.lr=0.05`), in an [experiment](tutorial.md#2-settings) or in a file for `--config-dir`.
`opt-run ... --cfg job` shows the values of one run. `--help` lists the choices
of each group; `experiment` and `recipe` set these keys and have none of their own.

If several files set a key, the last one of this order wins: `config.yaml`, schedule, augment,
method, model, dataset, hardware, tracking, recipe, optimizer, experiment, command line. So the
learning rate is the optimizer's (with SGD the recipe's, else the method's, else 0.1), and the
warm-up the recipe's, else the dataset's, else the method's.

The component of a group (method, model, dataset, optimizer, schedule) also has a `name`, for tables
and folders, and a `_target_`, its class or function. `required`: you must give a value. Limits
above 100,000 are left out.

These keys change a result by rounding at most, so a run keeps its signature if they change: {none},
and the options of a dataset that say where its files are.
For `hardware.device` this holds within a kind: a run on a GPU is another run than one on a CPU.
"""


@dataclass(frozen=True)
class Key:
    """A key of a file in conf/. allowed: its allowed values in words."""

    key: str
    default: Any
    allowed: str
    meaning: str


def choices(group: str) -> dict[str, list[Key]]:
    """Return the keys of each choice of a group."""
    files = sorted((conf_dir() / group).glob("*.yaml"))
    return {file.stem: [*_keys(file, group)] for file in files}


def every_run() -> list[Key]:
    """Return the keys of conf/config.yaml."""
    return [*_keys(conf_dir() / "config.yaml", "")]


def _keys(file: Path, group: str) -> Iterator[Key]:
    text = file.read_text()
    lines, node = text.splitlines(), yaml.compose(text)
    package = lines[0].removeprefix("# @package ")
    at = group.replace("/", ".") if package == lines[0] else package.removeprefix("_global_")
    for key, value, line in _leaves(node, at) if node else ():
        default = yaml.safe_load(yaml.serialize(value))
        annotation = _annotation(key, at, yaml.safe_load(text), group, file.stem)
        allowed = _in_words(annotation)
        if default is None and "`null`" not in allowed:
            allowed += " or `null`"  # the component gets the value that null stands for
        yield Key(key, default, allowed, lines[line].partition(" # ")[2].strip())


def _leaves(node: yaml.MappingNode, at: str) -> Iterator[tuple[str, yaml.Node, int]]:
    """Yield each key, its value and its line; an option of a component may itself be a mapping."""
    component = any(key.value == "_target_" for key, _ in node.value)
    for key, value in node.value:
        if key.value not in _ELSEWHERE:
            name = f"{at}.{key.value}".lstrip(".")
            if isinstance(value, yaml.MappingNode) and not component:
                yield from _leaves(value, name)
            else:
                yield name, value, key.start_mark.line


def _annotation(key: str, at: str, content: dict[str, Any], group: str, choice: str) -> Any:
    """Return the annotation of a key, in the schema or in the signature of its component.

    content: of a file whose place in the config is `at`.
    """
    if group == "hydra/sweeper":
        return _field(_SWEEPERS[choice], key.split(".")[2:])
    if group == "hydra/launcher":
        launcher: RunLauncher = get_object(content["_target_"])()
        with patch.dict(sys.modules, {} if find_spec("ray") else {"ray": MagicMock()}):
            return _field(launcher.kind(), key.split(".")[2:])
    if found := _field(Config, key.split(".")):
        return found
    *path, option = key.removeprefix(f"{at}.").split(".")
    for name in path:
        content = content[name]
    return (
        inspect.signature(get_object(content["_target_"]), eval_str=True)
        .parameters[option]
        .annotation
    )


def _field(node: Any, path: list[str]) -> Any:
    """Return the annotated type of a dotted key of the schema, or None."""
    field = node.model_fields.get(path[0])
    if field is None or not path[1:]:
        return field and field.rebuild_annotation()
    inside = isinstance(field.annotation, type) and issubclass(field.annotation, Node)
    return _field(field.annotation, path[1:]) if inside else None


def _in_words(annotation: Any) -> str:
    return _described(TypeAdapter(annotation).json_schema())


def _described(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return "mapping"
    if "anyOf" in schema:
        return " or ".join(_described(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return _codes(schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        limits = [
            f" {sign} {schema[name]:g}"
            for name, sign in _LIMITS.items()
            if abs(schema.get(name, math.inf)) <= _LARGE
        ]
        return ("whole number" if kind == "integer" else "number") + " and".join(limits)
    if kind == "array":
        parts = schema.get("prefixItems") or [schema.get("items", {})]
        return f"list: {_described(parts[0])}"
    names = {"boolean": "`true`, `false`", "null": "`null`", "string": "text", "object": "mapping"}
    return names.get(kind or "", "any")


def _shown(value: Any) -> str:
    return "required" if value == "???" else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return text.removesuffix("...").strip()


def page() -> str:
    """Return the text of docs/keys.md."""
    parts = [_HEAD.format(none=_codes(_without_effect()))]
    parts += _table("## Every run", {"": every_run()}, "")
    for group in GROUPS:
        parts += _table(f"## {group}", choices(group), group)
    return "\n".join(parts)


def _without_effect(schema: type[Node] = Config, at: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        if Role.NONE in field.metadata:
            yield at + name
        elif has_roles(field.annotation):
            yield from _without_effect(field.annotation, f"{at}{name}.")


def _table(heading: str, found: dict[str, list[Key]], group: str) -> list[str]:
    """Return the lines of a section: equal rows of several choices are one."""
    own = group.replace("/", ".")
    rows: dict[tuple[str, ...], list[str]] = {}
    elsewhere: dict[str, list[str]] = {}
    for choice, keys in found.items():
        for one in keys:
            if one.key.startswith(own):
                row = (one.key, _shown(one.default), one.allowed, one.meaning)
                rows.setdefault(row, []).append(choice)
        changed = [f"`{k.key}={_yaml(k.default)}`" for k in keys if not k.key.startswith(own)]
        if changed:
            elsewhere.setdefault(" ".join(changed), []).append(choice)
    lines = [heading, "", "| key | default | allowed | meaning |", "|---|---|---|---|"]
    if group:
        lines[2:] = [f"| key | {group} | default | allowed | meaning |", "|---|---|---|---|---|"]
    for (key, *others), names in sorted(rows.items(), key=lambda row: _place(row[0], rows)):
        of = "all" if len(names) == len(found) else _codes(names)
        cells = [f"`{key}`", *([of] if group else []), *others]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if elsewhere:
        lines += ["", "Some choices also change other keys:", ""]
        lines += [f"| {group} | changes |", "|---|---|"]
        lines += [f"| {_codes(names)} | {changed} |" for changed, names in elsewhere.items()]
    return [*lines, ""]


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _place(row: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> int:
    """Return the place of the first row with the same key: rows of a key stand together."""
    return next(place for place, (key, *_) in enumerate(rows) if key == row[0])


if __name__ == "__main__":
    print(page(), end="")
