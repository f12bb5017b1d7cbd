"""Overrides of a command line in Hydra's grammar, which is parsed here and nowhere else."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from opt_runner.errors import UserError

_HOME = re.compile(r"~[^']*")
_TEXT = re.compile(rf"[-+]?[\d_.]+(e[-+]?\d+)?|[-+]?inf|nan|true|false|{_HOME.pattern}", re.I)


@cache
def parse(text: str) -> Override:
    """Return the parsed override. Raises UserError for bad grammar, with the override's text."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(explain_grammar(text, str(error))) from error


def by_key(overrides: Iterable[str]) -> dict[str, Override]:
    """Return the parsed overrides by key, without + and ++. The last one of a key is used."""
    return {one.get_key_element().lstrip("+"): one for one in map(parse, overrides)}


def combinations(overrides: Iterable[str]) -> list[list[str]]:
    """Return every combination of the values of all keys. Raises UserError, see `assignments`."""
    return [list(job) for job in product(*map(assignments, by_key(overrides).values()))]


def assignments(override: Override) -> list[str]:
    """Return `KEY=VALUE` for each value: `a=1` and `a=2` for a=1,2.

    Raises UserError for an interval, and if there is no value.
    """
    key = override.get_key_element()
    if override.is_delete():
        return [str(override.input_line)]
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise UserError(
            f"{override.input_line}: a grid takes values, as {key}=1,2 or {key}=range(1,5), "
            "no intervals"
        )
    hydra = GlobalHydra.instance()
    # It knows the choices of groups, for glob(*).
    override.config_loader = hydra.config_loader() if hydra.is_initialized() else None
    try:
        found = [f"{key}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, ValueError) as error:
        raise UserError(f"{override.input_line}: {error}") from error
    if not found:
        raise UserError(f"{override.input_line} has no values: range(1,4) is 1, 2, 3")
    return found


def explain_grammar(text: str, fault: str) -> str:
    """Return a line that explains `fault`, Hydra's message about an override."""
    reason = fault.removeprefix(f"Error parsing override '{text}'").strip().split("\n")[0]
    if reason.startswith("LexerNoViableAlt"):
        reason = "a character that Hydra's grammar does not have"
    key, sign, value = text.partition("=")
    if not sign:
        return f"{text}: {reason}; write KEY=VALUE"
    quoted = value.replace('"', "").replace("'", "")
    return f"{text}: {reason}; quote a text for Hydra and the shell: '{key}=\"{quoted}\"'"


def with_quoted_texts(arguments: Sequence[str], text_keys: Iterable[str]) -> list[str]:
    """Return the arguments with quotes around values that Hydra would misread.

    Those are numbers and booleans of keys of text, as Hydra reads experiment_name=2024_11_28 as the
    number 20241128, and paths that begin with `~`.
    """
    keys = {*text_keys}
    return [
        _with_quotes(word, _TEXT if word.partition("=")[0].lstrip("+") in keys else _HOME)
        for word in arguments
    ]


def _with_quotes(word: str, texts: re.Pattern[str]) -> str:
    key, sign, text = word.partition("=")
    values = text.split(",")
    return key + sign + ",".join(f"'{v}'" if texts.fullmatch(v) else v for v in values)
