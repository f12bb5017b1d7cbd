"""What the figures should keep to, and why. They are aims: no exit code depends on them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limit:
    """figure: what is measured. of: the methods or forms that it is measured of, or () for one
    figure alone. value: the most that it should be or, where `at_least`, the least."""

    figure: str
    of: tuple[str, ...]
    value: float
    why: str
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value


_EXACT = ("gs", "hr", "ls", "cayley", "sopt")
_ALL = (*_EXACT, "ogd", "or")
_LIBRARY = "for less, a library that has a form of its own would do"
_LOOP = "this is how it is first written down, vector by vector"
_WATCHED = "whoever watches a run should not pay for it"

# R R of all rotated layers takes 0.056 of a step of CNN-9 on two cores.
_PRODUCTS = "the time of so many products R R of all layers: "

LIMITS = (
    Limit("time of a step, cnn9, cpu", ("cayley", "ogd", "sopt"), 1.05, f"{_PRODUCTS}1"),
    Limit("time of a step, cnn9, cpu", ("frame",), 1.01, "it has no product of d x d matrices"),
    Limit("time of a step, cnn9, cpu", ("or",), 1.08, f"{_PRODUCTS}1.5"),
    Limit("time of a step, cnn9, cpu", ("gs", "hr"), 1.12, f"{_PRODUCTS}2"),
    Limit("time of a step, cnn9, cpu", ("ls",), 1.35, f"{_PRODUCTS}6"),
    Limit("time of a step, cnn9, cuda", _ALL, 1.15, "a guess: nothing was measured on a GPU"),
    Limit("peak memory, cnn9", _ALL, 1.40, "little should come on top of the activations"),
    Limit("|QᵀQ - I|", _EXACT, 2e-5, "Q is made anew from R at every step: rounding, no drift"),
    Limit("|QᵀQ - I|", ("frame",), 2e-5, "rounding is turned back every few steps"),
    Limit("|QᵀQ - I|", ("ogd",), 1e-4, "R carries its error from step to step"),
    Limit("data path, share of a step", (), 0.03, "it should not hide what a method costs"),
    Limit(
        "data path, times as fast as a DataLoader", (), 10.0,
        "for less, a DataLoader would do", at_least=True,
    ),
    Limit("reporting, loop with by loop without", (), 1.01, _WATCHED),
    Limit("reporting, share of callbacks", (), 0.01, _WATCHED),
    Limit(
        "times ours", ("torch cayley", "torch householder", "geotorch cayley"), 2.5,
        _LIBRARY, at_least=True,
    ),
    Limit("times ours", ("Gram-Schmidt loop", "Householder loop"), 30.0, _LOOP, at_least=True),
)  # fmt: skip


def judged(figure: str, value: float, of: str | None = None) -> dict[str, Any]:
    """`limit` and `met` for a row: None where there is no limit."""
    for limit in LIMITS:
        if limit.figure == figure and (of in limit.of if limit.of else of is None):
            return {"limit": limit.value, "met": limit.met(value)}
    return {"limit": None, "met": None}


def notes(figure: str) -> list[str]:
    """The limits of all figures that start so, in words."""
    return [
        f"limit of {', '.join((limit.figure, *limit.of))}: "
        f"at {'least' if limit.at_least else 'most'} {limit.value:g}: {limit.why}"
        for limit in LIMITS
        if limit.figure.startswith(figure)
    ]
