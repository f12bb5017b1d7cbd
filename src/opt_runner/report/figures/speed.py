"""Train loss, and the error where it is known along the way, against seconds of training."""

from dataclasses import replace
from functools import partial

from matplotlib.figure import Figure

from opt_runner.report.comparison import Comparison, is_number
from opt_runner.report.figures.curves import column
from opt_runner.report.figures.lines import Line, Metrics, line_panel, lines, over_seeds
from opt_runner.report.figures.panels import draw_panels

SHOWS = "Train loss and error against seconds of training"


def draw(table: Comparison) -> Figure | None:
    """None where the records do not tell seconds.

    A step is drawn at the mean over seeds of its seconds, which are this machine's.
    """
    seconds = {line.label: line for line in lines(table, _seconds)}
    timed = {
        "train loss": _timed(lines(table, partial(column, "train_loss")), seconds),
        "validation error, %": _timed(lines(table, partial(column, "validation_error")), seconds),
        "test error, %": _timed(lines(table, partial(column, "test_error")), seconds),
    }
    # An error that is known at the end alone is no curve.
    shown = {name: ls for name, ls in timed.items() if any(len(line.steps) > 1 for line in ls)}
    if not shown:
        return None
    note = over_seeds([line for of_panel in shown.values() for line in of_panel])
    panels = [line_panel(name, of, "seconds of training") for name, of in shown.items()]
    return draw_panels(table, note, panels)


def _seconds(metrics: Metrics) -> dict[int, float]:
    """Also of the steps between two that tell them, as evaluations may be."""
    known = {0: 0.0, **column("seconds", metrics)}
    steps = sorted(known)
    found = dict(known)
    for row in metrics:
        step = row["step"]
        after = next((one for one in steps if one >= step), None)
        if step not in known and after is not None:
            before = max(one for one in steps if one < step)
            share = (step - before) / (after - before)
            found[step] = known[before] + share * (known[after] - known[before])
    return found if len(known) > 1 and all(map(is_number, found.values())) else {}


def _timed(of_rows: list[Line], seconds: dict[str, Line]) -> list[Line]:
    """The lines with seconds in the place of steps."""
    timed = []
    for line in of_rows:
        if line.label in seconds:
            at = dict(zip(seconds[line.label].steps, seconds[line.label].mean, strict=True))
            kept = [place for place, step in enumerate(line.steps) if step in at]
            timed.append(
                replace(
                    line,
                    steps=[at[line.steps[place]] for place in kept],
                    mean=[line.mean[place] for place in kept],
                    low=[line.low[place] for place in kept],
                    high=[line.high[place] for place in kept],
                )
            )
    return timed
