"""Rows look different, and a method looks the same everywhere."""

from collections.abc import Sequence
from typing import Any

import pytest
from matplotlib.colors import is_color_like, rgb_to_hsv, to_hex, to_rgb

from opt_runner.methods import METHODS, PAPER
from opt_runner.report import figures
from opt_runner.report.figures.canvas import as_bytes
from opt_runner.report.figures.style import Style, method_colours, styles
from opt_runner.report.figures.view import View
from tests.report.conftest import Tables, Write


def looks(style: Style) -> tuple[Any, ...]:
    return (style.colour, style.dashes, style.marker)


def colours(found: Sequence[Style]) -> list[str]:
    return [style.colour for style in found]


def many(write: Write, count: int) -> None:
    """The paper's methods and a user's own, `count` in all."""
    for method in PAPER:
        write(method, 0)
    for k in range(count - len(PAPER)):
        write("gs", 0, name=f"own{k}")


def test_our_methods_have_colours_of_their_own() -> None:
    colours = method_colours({name: method.colour for name, method in METHODS.items()})
    assert colours == {name: (method.colour or "").lower() for name, method in METHODS.items()}
    assert len(set(colours.values())) == len(METHODS)
    assert colours["standard"] == "#777777"


def test_methods_of_one_family_have_similar_colours() -> None:
    """Hues lie within a third of the circle; `penalties` have blue to green.

    Those of the paper's methods, `OPT`, are as different as can be: they stand alone the most.
    """
    hues: dict[str, list[float]] = {}
    for method in METHODS.values():
        if method.family not in (None, "OPT") and method.colour:
            hues.setdefault(method.family, []).append(rgb_to_hsv(to_rgb(method.colour))[0])
    for family, of_family in hues.items():
        found = sorted(of_family)
        widest_gap = max(b - a for a, b in zip(found, [*found[1:], found[0] + 1], strict=True))
        assert 1 - widest_gap < (0.5 if family == "penalties" else 1 / 3), family


@pytest.mark.parametrize("count", [9, 25])
def test_many_methods_all_look_different(write: Write, tables: Tables, count: int) -> None:
    many(write, count)
    (table,) = tables()
    found = styles(table.rows)
    assert len(found) == count
    assert len(set(colours(found))) == count
    assert len({(style.dashes, style.marker) for style in found}) == count
    assert found == styles(table.rows)


def test_sixty_rows_look_different_although_the_palette_ends(write: Write, tables: Tables) -> None:
    many(write, 60)
    (table,) = tables()
    assert len({looks(style) for style in styles(table.rows)}) == 60
    assert len({(style.dashes, style.marker) for style in styles(table.rows)}) == 60


def test_a_colour_comes_from_the_name_and_is_free() -> None:
    alone = method_colours({"mine": None})["mine"]
    assert method_colours({"standard": "#777777", "mine": None})["mine"] == alone
    taken = method_colours({"mine": None, "other": alone.upper()})
    assert taken["other"] == alone
    assert taken["mine"] != alone


@pytest.mark.parametrize("stated", ["red", "#12345", "$", "#12345G"])
def test_what_is_no_colour_counts_as_none(write: Write, tables: Tables, stated: str) -> None:
    write("gs", 0, name="mine", colour=stated)
    (table,) = tables()
    (style,) = styles(table.rows)
    assert is_color_like(style.colour)
    assert as_bytes(figures.draw(View(table))["curves"], "svg")


def test_forms_of_a_method_are_shades_of_its_colour(write: Write, tables: Tables) -> None:
    for lr in (0.01, 0.1, 0.3):
        write("gs", 0, f"optimizer.lr={lr}")
    write("cayley", 0)
    (table,) = tables()
    *forms, cayley = styles(table.rows)
    assert len(set(colours(forms))) == 3
    hues = [rgb_to_hsv(to_rgb(colour))[0] for colour in (*colours(forms), METHODS["gs"].colour)]
    assert hues == pytest.approx([hues[0]] * 4, abs=0.02)
    assert cayley.colour == to_hex(METHODS["cayley"].colour or "")
    assert len({looks(style) for style in forms}) == 3
