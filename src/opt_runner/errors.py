"""Errors whose text is for the person at the terminal, and their wording."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError


class UserError(Exception):
    """A user's mistake, shown without a traceback.

    One line for each fault: what was wrong, what is allowed, what to do.
    """


class Elsewhere(Exception):
    """Another process of the same run has failed; the text says how.

    Where several processes train a run, that process reports the error itself.
    """


def nearest(word: str, known: Collection[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, or an empty string.

    Of dotted words with the same beginning only the last parts are compared.
    """
    node, dot, last = word.rpartition(".")
    beside = [one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == node]
    others = [one for one in known if one.rpartition(".")[0] != node]
    matches = [node + dot + one for one in difflib.get_close_matches(last, beside, n=1)]
    matches = matches or difflib.get_close_matches(word, others, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


@contextmanager
def explained(where: str, known: Iterable[str]) -> Iterator[None]:
    """Raise UserError for a pydantic error in the block, one line for each fault.

    where: the dotted key of the node, or "" for the whole config. known: the keys below it.
    """
    try:
        yield
    except ValidationError as error:
        dotted = sorted({f"{where}.{key}" if where else key for key in known})
        faults = error.errors()
        # pydantic counts a wrong item as missing: the fault of the list is that of the item.
        inner = {fault["loc"][:-1] for fault in faults}
        own = [one for one in faults if one["type"] != "too_short" or one["loc"] not in inner]
        lines = [_explain_one(dict(fault), where, dotted) for fault in own]
        raise UserError("\n".join(lines)) from error


def _explain_one(fault: dict[str, Any], where: str, known: list[str]) -> str:
    # For a union pydantic appends the type that it tried ("constrained-int"), which no user wrote.
    path = [str(part) for part in fault["loc"] if isinstance(part, int) or part.isidentifier()]
    key = ".".join([where, *path] if where else path)
    match fault["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"unknown key {key!r}{nearest(key, known)} {_beside(key, known)}"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"{key} is missing"
        case "value_error":
            return f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"])
    # As "Input should be greater than 0" and "Tuple should have at least 1 item after validation".
    subject, should, limit = fault["msg"].partition(" should ")
    said = f"must {limit.partition(' after validation')[0]}" if should else subject
    number = fault["type"] == "string_type" and isinstance(fault["input"], int | float)
    hint = f"; quote it for Hydra and the shell: '{key}=\"TEXT\"'" if number else ""
    return f"{key}: {said}, got {fault['input']!r}{hint}"


def _beside(key: str, known: list[str]) -> str:
    """Return a hint: the known keys of the node of an unknown key."""
    node = key.rpartition(".")[0]
    if not node:
        return "(opt-run --cfg job shows all keys)"
    keys = [one for one in known if one.rpartition(".")[0] == node]
    return f"({node} takes {', '.join(keys)})" if keys else f"({node} takes no keys)"


def in_words(error: BaseException) -> str:
    """Return the message of a user's error; for any other error its type and message."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(names: Sequence[str], most: int = 20) -> str:
    """Return the names for a message: the first of them and a number if they are many."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 run", "2,000 runs"."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def gib(size: int) -> str:
    """Return a number of bytes as text in GiB."""
    return f"{size / 2**30:,.1f} GiB"
