"""The columns of a table: heading, cells as text, and a note that explains them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from opt_runner.report.comparison import Comparison, Row
from opt_runner.report.statistics import Difference, Mean

NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """text: the cell of a row; NOTHING where its records do not say."""

    heading: str
    text: Callable[[Comparison, Row], str]
    note: str = ""


def columns(table: Comparison, brief: bool = False) -> list[Column]:
    """Those in which some row of the table has something to say.

    brief: those that fit into a terminal.
    """
    full = (*_FULL, *map(_measured, _measured_names(table)), *_COSTS)
    every = (*(_BRIEF if brief else full), _RUNS)
    return [
        column for column in every if any(column.text(table, row) != NOTHING for row in table.rows)
    ]


def notes(tables: Iterable[Comparison], brief: bool = False) -> list[str]:
    """The notes of the columns that these tables have, each once."""
    found = [column.note for table in tables for column in columns(table, brief)]
    return [note for note in dict.fromkeys(found) if note]


def finished(table: Comparison, row: Row) -> str:
    """`3`, or `1 of 3: 1 failed, 1 missing`."""
    n, unfinished = len(row.finished), table.unfinished(row)
    if not unfinished:
        return str(n)
    told = ", ".join(f"{len(seeds)} {status}" for status, seeds in unfinished.items())
    return f"{n} of {len(table.seeds)}: {told}"


def mean(value: Mean | None, form: str) -> str:
    """As text, with its standard deviation, where there is one."""
    spread = "" if value is None or value.std is None else f" ± {value.std:{form}}"
    return _number(value, form) + spread


def _number(value: Mean | None, form: str, unit: str = "") -> str:
    return NOTHING if value is None else f"{value.mean:{form}}{unit}"


def _largest(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1e}"


def _change(values: tuple[Mean | None, Mean | None], form: str) -> str:
    before, after = values
    if before is None or after is None:
        return NOTHING
    return f"{before.mean:{form}} → {after.mean:{form}}"


def _p(value: float | None) -> str:
    return NOTHING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _difference(value: Difference | None) -> str:
    if value is None:
        return NOTHING
    if value.low is None:
        return f"{value.mean:+.2f}"
    return f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def _measured(name: str) -> Column:
    """A column for a value that a method measures, see `Method.measure`."""
    return Column(
        name,
        lambda _, row: _largest(row.measured(name)),
        f"{name}: measured by the method itself after training, largest over layers and seeds",
    )


def _measured_names(table: Comparison) -> list[str]:
    results = [result for row in table.rows for result in row.finished.values()]
    return sorted({name for result in results for name in result.measured})


_COMPARED = (
    Column("method", lambda _, row: row.label),
    Column(
        "test error %",
        lambda _, row: mean(row.mean("test_error"), ".2f"),
        "mean ± standard deviation over the n seeds whose runs finished; "
        "test error: after the last step",
    ),
    Column(
        "minus standard [95%]",
        lambda table, row: _difference(table.difference(row)),
        "minus standard: mean difference of the test error over the seeds that finished in both "
        "rows, with its 95% confidence interval (paired t-test, of each method alone); none where "
        "all seeds differ alike",
    ),
    Column(
        "p",
        lambda table, row: _p(table.corrected_p(row)),
        "p: of that difference, corrected by Holm for the number of methods; of the rows whose p "
        "is below 0.05 and whose runs all finished, the one furthest below standard is bold",
    ),
)
_AT_BEST = Column(
    "at best validation %",
    lambda _, row: mean(row.mean("test_error_at_best"), ".2f"),
    "at best validation: test error after the step with the lowest validation error",
)
_ENERGY = (
    Column(
        "energy excess",
        lambda _, row: _change(row.layers("half_space_excess", fmean), "+z.2f"),
        "energy excess: before → after training, mean over layers; the half-space energy (s = 0) "
        "of a layer's neurons minus that of random neurons, in standard deviations of the latter",
    ),
)
_COSINE = Column(
    "largest |cos|",
    lambda _, row: _change(row.layers("largest_cosine", max), ".3f"),
    "largest |cos|: of the angle between two neurons of a layer, over all layers, before → after "
    "training; 1: two neurons are parallel or opposite",
)
_ORTHOGONALITY = Column(
    "|QᵀQ-I|",
    lambda _, row: _largest(row.largest("orthogonality_error")),
    "|QᵀQ-I|: its largest entry over layers and seeds, after training",
)
_SECONDS = Column(
    "seconds",
    lambda _, row: _number(row.mean("seconds"), ",.1f"),
    "seconds: of training, evaluation not counted",
)
_RUNS = Column("n", finished)
_COSTS = (
    Column(
        "trainable parameters", lambda _, row: _number(row.mean("trainable_parameters"), ",.0f")
    ),
    Column("images/s", lambda _, row: _number(row.mean("images_per_second"), ",.0f")),
    _SECONDS,
)  # fmt: skip
_FULL = (
    *_COMPARED,
    _AT_BEST,
    Column(
        "validation error %",
        lambda _, row: mean(row.mean("validation_error"), ".2f"),
        "validation error: after the last step, on the training images that are held back",
    ),
    Column("train loss", lambda _, row: mean(row.mean("train_loss"), ".4f")),
    Column(
        "train error %",
        lambda _, row: mean(row.mean("train_error"), ".2f"),
        "train error: after the last step, of as many training images as there are test images, "
        "not augmented",
    ),
    Column(
        "gap",
        lambda _, row: mean(row.mean_difference("test_error", "train_error"), ".2f"),
        "gap: test error minus train error",
    ),
    Column(
        "test NLL",
        lambda _, row: mean(row.mean("test_nll"), ".3f"),
        "test NLL: mean negative log-likelihood of the test labels",
    ),
    Column(
        "calibration error %",
        lambda _, row: mean(row.mean("calibration_error"), ".2f"),
        "calibration error: expected calibration error of the test images, 15 bins of confidence",
    ),
    *_ENERGY,
    _COSINE,
    _ORTHOGONALITY,
)
_BRIEF = (
    *_COMPARED,
    _AT_BEST,
    Column("train loss", lambda _, row: _number(row.mean("train_loss"), ".4f")),
    *_ENERGY,
    _ORTHOGONALITY,
    _SECONDS,
)
