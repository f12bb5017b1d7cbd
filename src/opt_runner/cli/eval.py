"""opt-eval: test a trained network, on its own test samples or on others.

Exit codes: 0 tested, 2 a mistake in the command. Help answers without importing torch.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opt_runner.cli import mistakes
from opt_runner.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from opt_runner.trained import Evaluation

# A matrix with more classes does not fit into a terminal.
_MOST_CLASSES = 20
_MOST_MISTAKEN = 10


def main(argv: Sequence[str] | None = None) -> None:
    """Execute `opt-eval`, with the command line of this process if `argv` is None."""
    given = _parser().parse_intermixed_args(argv)
    with mistakes.command_of_files("opt-eval"):
        # Slow to import: help must answer at once.
        from opt_runner.config.compose import with_overrides
        from opt_runner.console.screen import Screen
        from opt_runner.files import CannotWrite
        from opt_runner.trained import Trust, evaluate, read

        screen = Screen("plain")
        trained = read(given.record, Trust(given.trust, given.config_dir))
        config = with_overrides(
            trained.config.content, given.overrides, ("dataset", "hardware"), given.config_dir
        )
        found = evaluate(trained, config)
        numbers = [found.measure.said("test", found.numbers["error"])]
        numbers += [
            f"{key.replace('_', ' ')} {value:.4g}"
            for key, value in found.numbers.items()
            if key != "error"
        ]
        screen.say(
            f"{config.title.rpartition(' seed ')[0]}, {found.samples:,} test "
            f"{trained.interface.samples}: {', '.join(numbers)}"
        )
        if found.by_position:
            screen.say("its classes have other names than the network's: matched by position")
        if found.classes:
            screen.show(_table(found))
        if given.out:
            try:
                found.write(given.out)
            except CannotWrite as error:
                raise UserError(
                    f"cannot write {given.out}: {error.reason}; set --out FILE"
                ) from error
            screen.say(f"written: {given.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opt-eval",
        description="Test the network of a finished run: its error, other numbers, and the "
        "confusion matrix of classes.",
        epilog="Example: opt-eval RECORD dataset=image_folder dataset.root=DIR hardware=cpu. "
        "Classes of another dataset are matched by name if the network knows all of them, else "
        "by position.",
    )
    mistakes.add_record(parser)
    parser.add_argument("overrides", nargs="*", default=[],
                        help="dataset=CHOICE, dataset.KEY=VALUE; also hardware=CHOICE, "
                        "hardware.KEY=VALUE")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all of it as JSON")
    return parser


def _table(found: "Evaluation") -> "Table":
    """Return the confusion matrix; for many classes, the most frequent confusions alone."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold")
    if len(found.classes) > _MOST_CLASSES:
        for heading in ("true", "predicted"):
            table.add_column(heading)
        table.add_column("samples", justify="right")
        for count, true, predicted in found.mistaken[:_MOST_MISTAKEN]:
            table.add_row(true, predicted, f"{count:,}")
        return table
    table.add_column("true \\ predicted")
    for name in found.classes:
        table.add_column(name, justify="right")
    for number, (name, row) in enumerate(zip(found.classes, found.confusion, strict=True)):
        # Only mistakes are shown, so that they catch the eye.
        cells = [f"{n:,}" if n or i == number else "" for i, n in enumerate(row)]
        table.add_row(name, *cells)
    return table
