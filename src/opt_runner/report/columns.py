"""The columns of a table: heading, cells as text, and a note that explains them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from opt_runner.datasets.data import Measure
from opt_runner.errors import UserError
from opt_runner.report.comparison import Comparison, TableRow
from opt_runner.report.statistics import Mean

NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """A column of a table. text: returns the cell of a row, NOTHING if the value is unknown."""

    heading: str
    text: Callable[[Comparison, TableRow], str]
    note: str = ""
    brief: bool = False  # also shown in the terminal

    @property
    def name(self) -> str:
        """Return the heading without its unit: `test error`, `minus standard`."""
        return self.heading.split(" [")[0].removesuffix(" %")


@dataclass(frozen=True)
class Sheet:
    """A table as text. cells: for each row the texts of these columns."""

    columns: Sequence[Column]
    cells: Sequence[Sequence[str]]

    @property
    def headings(self) -> list[str]:
        return [column.heading for column in self.columns]

    @property
    def notes(self) -> list[str]:
        return [column.note for column in self.columns if column.note]


def sheet(table: Comparison, brief: bool = False, names: Sequence[str] = ()) -> Sheet:
    """Return the columns in which some row has a value.

    brief: those for a terminal. names: only these, in this order, after the method's name.
    """
    every = _all(table)
    if names:
        own = {column.name: column for column in every}
        columns = [own[name] for name in dict.fromkeys(["method", *names]) if name in own]
    else:
        columns = [column for column in every if column.brief or not brief]
    texts = [[column.text(table, row) for row in table.rows] for column in columns]
    filled = [place for place, cells in enumerate(texts) if {*cells} != {NOTHING}]
    cells = zip(*(texts[place] for place in filled), strict=True)
    return Sheet([columns[place] for place in filled], [*cells])


def check_names(names: Sequence[str], tables: Sequence[Comparison]) -> None:
    """Raise UserError for a name that is no column of a table."""
    known = dict.fromkeys(column.name for table in tables for column in _all(table))
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"--columns: no column is called {', '.join(unknown)}; "
            f"there are: {', '.join(known) or 'none'}"
        )


def _all(table: Comparison) -> list[Column]:
    """Return all columns, also those in which no row has a value."""
    results = [result for row in table.rows for result in row.finished.values()]
    tested = dict.fromkeys(name for result in results for name in result.tested)
    measured = sorted({name for result in results for name in result.measured})
    return [
        *_errors(table.measure),
        *map(_tested, tested),
        *_GEOMETRY,
        *map(_measured, measured),
        *_COSTS,
    ]


def finished(table: Comparison, row: TableRow) -> str:
    """Return `3`, or `1 of 3: 1 failed, 1 missing`."""
    n, unfinished = len(row.finished), table.unfinished(row)
    if not unfinished:
        return str(n)
    counts = ", ".join(f"{len(seeds)} {status}" for status, seeds in unfinished.items())
    return f"{n} of {len(table.seeds)}: {counts}"


def mean(value: Mean | None, form: str, spread: bool = True) -> str:
    """Return a mean as text, by default with its standard deviation if it has one."""
    deviation = f" ± {value.std:{form}}" if spread and value and value.std is not None else ""
    return f"{value.mean:{form}}{deviation}" if value else NOTHING


def _difference(table: Comparison, row: TableRow) -> str:
    value = table.differences.get(row)
    if value is None:
        return NOTHING
    form = table.measure.form
    interval = "" if value.low is None else f" [{value.low:+{form}}, {value.high:+{form}}]"
    return f"{value.mean:+{form}}{interval}"


def _p(table: Comparison, row: TableRow) -> str:
    value = table.corrected.get(row)
    return NOTHING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _mean(
    heading: str, name: str, form: str, note: str = "", brief: bool = False, spread: bool = True
) -> Column:
    return Column(heading, lambda _, row: mean(row.mean(name), form, spread), note, brief)


def _change(heading: str, name: str, reduce: Callable[..., float], form: str, note: str) -> Column:
    """Return the column of a geometric value, before → after training."""

    def text(_: Comparison, row: TableRow) -> str:
        before, after = row.layers(name, reduce)
        return f"{before.mean:{form}} → {after.mean:{form}}" if before and after else NOTHING

    return Column(heading, text, note, brief=name == "half_space_excess")


def _largest(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1e}"


def _measured(name: str) -> Column:
    """Return the column of a value that a method measures, see `Method.measure`."""
    note = f"{name}: measured by the method itself after training, largest over layers and seeds"
    return Column(name, lambda _, row: _largest(row.measured(name)), note)


def _tested(name: str) -> Column:
    """Return the column of another number of the test samples."""
    heading, form, note = _NUMBERS.get(name, (f"test {name.replace('_', ' ')}", ".4g", ""))
    return _mean(heading, name, form, note)


def _errors(measure: Measure) -> tuple[Column, ...]:
    """Return the columns of errors. measure: what they are."""
    form, test = measure.form, f"test {measure.name}"
    held_out = f"at best validation {measure.unit}".strip()
    return (
        Column("method", lambda _, row: row.label, brief=True),
        _mean(measure.heading("test"), "test_error", form,
              f"mean ± standard deviation over the n seeds whose runs finished; {test}: after the "
              "last step", brief=True),
        Column("minus standard [95%]", _difference,
               f"minus standard: mean difference of the {test} over the seeds that finished in "
               "both rows, with its 95% confidence interval (paired t-test, of each method alone); "
               "none if all seeds differ equally", brief=True),
        Column("p", _p,
               "p: of that difference, corrected by Holm for the number of methods; of the rows "
               "whose p is below 0.05 and whose runs all finished, the one furthest below standard "
               "is bold", brief=True),
        _mean(held_out, "test_error_at_best", form,
              f"at best validation: {test} after the step with the lowest validation "
              f"{measure.name}", brief=True),
        _mean(measure.heading("validation"), "validation_error", form,
              f"validation {measure.name}: after the last step, on the training samples that are "
              "held back"),
        _mean("train loss", "train_loss", ".4f", brief=True),
        _mean(measure.heading("train"), "train_error", form,
              f"train {measure.name}: after the last step, of as many training samples as there "
              "are test samples, not augmented"),
        Column("gap", lambda _, row: mean(row.gap(), form),
               f"gap: {test} minus train {measure.name}"),
    )  # fmt: skip


# Numbers of the test samples that are known: heading, format, note.
_NUMBERS = {
    "nll": ("test NLL", ".3f", "test NLL: mean negative log-likelihood of the test labels"),
    "calibration_error": (
        "calibration error %", ".2f",
        "calibration error: expected calibration error of the test samples, 15 bins of confidence",
    ),
}  # fmt: skip
_GEOMETRY = (
    _change("energy excess", "half_space_excess", fmean, "+z.2f",
            "energy excess: before → after training, mean over layers; the half-space energy "
            "(s = 0) of a layer's neurons minus that of random neurons, in standard deviations of "
            "the latter (formula: docs/methods.md)"),
    _change("largest |cos|", "largest_cosine", max, ".3f",
            "largest |cos|: of the angle between two neurons of a layer, over all layers, before → "
            "after training; 1: two neurons are parallel or opposite"),
    Column("|QᵀQ-I|",
           lambda _, row: _largest(max(row.values("orthogonality_error").values(), default=None)),
           "|QᵀQ-I|: its largest entry over layers and seeds, after training", brief=True),
)  # fmt: skip
_COSTS = (
    _mean("trainable parameters", "trainable_parameters", ",.0f", spread=False),
    _mean("samples/s", "samples_per_second", ",.0f", spread=False),
    _mean("seconds", "seconds", ",.1f", "seconds: of training, evaluation not counted",
          brief=True, spread=False),
    Column("n", finished, brief=True),
)  # fmt: skip
