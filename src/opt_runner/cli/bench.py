"""opt-bench: measure what OPT costs. Exit codes: 0 all parts ran, 1 a part failed, 2 a mistake in
the command, 130 interrupted.

Whether figures keep their limits is in the tables and does not change the exit code. Help answers
without importing torch.
"""

import argparse
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from opt_runner.errors import UserError, nearest
from opt_runner.files import CannotWrite
from opt_runner.run import process

PARTS = {
    "steps": "whole training steps of every method against plain training; peak memory",
    "rotations": "one layer against torch's and geotorch's parametrizations and naive forms",
    "drift": "how orthogonal rotations are after 1,000 steps, in float32 and bfloat16",
    "datapath": "batches against a DataLoader; the cost of logging and progress",
    "networks": "steps and memory on large networks: what is planned, what is measured",
    "growth": "time and memory of one rotation for d = 64 to 4,608: exponents, plots",
}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else list(argv)
    given = _parser().parse_args(arguments)
    process.spin_briefly()
    try:
        failed = _run(given, shlex.join(["opt-bench", *arguments]))
    except (UserError, CannotWrite) as error:
        print(f"opt-bench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("opt-bench: interrupted; the parts before this one are on disk", file=sys.stderr)
        sys.exit(130)
    if failed:
        print(f"opt-bench: failed: {', '.join(failed)}", file=sys.stderr)
    sys.exit(1 if failed else 0)


def _parser() -> argparse.ArgumentParser:
    parts = "\n".join(f"  {name:10} {what}" for name, what in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="opt-bench",
        description=f"Measure what OPT costs. The parts, all of them by default:\n\n{parts}",
        epilog="Tables go to the terminal, rows to OUT/PART.json, plots to OUT/growth*.png.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="part", type=_part)
    parser.add_argument(
        "--threads", type=_positive, metavar="N", default=2, help="threads of the CPU (default: 2)"
    )
    parser.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda"], help="default: auto"
    )
    parser.add_argument(
        "--samples", type=_positive, metavar="N", help="n of every figure (default: by the part)"
    )
    parser.add_argument(
        "--seconds", type=_positive, metavar="S", default=300,
        help="growth: what a method may take over all sizes (default: 300)",
    )  # fmt: skip
    parser.add_argument(
        "--network", action="append", default=[], metavar="NAME",
        help="steps, networks: this one alone (may be given several times)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=_positive, metavar="N",
        help="of the steps in steps and networks (default: 128; 8 in networks)",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: tries the program, times mean nothing"
    )
    parser.add_argument(
        "--plain-malloc", action="store_true", help="as with hardware.reuse_memory=false"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("outputs/bench"))
    return parser


def _part(name: str) -> str:
    if name not in PARTS:
        known = ", ".join(PARTS)
        raise argparse.ArgumentTypeError(f"no part {name!r}{nearest(name, PARTS)} ({known})")
    return name


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _run(given: argparse.Namespace, command: str) -> list[str]:
    """Measure, print and write part by part. Returns the parts that failed; the others go on."""
    from opt_runner.bench import part

    settings = part.Settings(
        out=given.out,
        hardware=(
            f"hardware.device={given.device}",
            f"hardware.threads={given.threads}",
            f"hardware.reuse_memory={not given.plain_malloc}",
        ),
        samples=given.samples,
        quick=given.quick,
        seconds=given.seconds,
        networks=tuple(given.network),
        batch_size=given.batch_size,
    )
    screen = settings.screen
    screen.say(part.machine_line(settings.device))
    _make_folder(given.out)
    failed: list[str] = []
    for name in dict.fromkeys(given.parts or PARTS):
        try:
            report = import_module(f"opt_runner.bench.{name}").run(settings)
        except (UserError, CannotWrite):
            raise
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        for table in report.tables:
            screen.show(table)
        for note in report.notes:
            screen.say(f"- {note}")
        screen.say(f"written: {part.write(name, report, settings, command)}")
    return failed


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; set --out DIR") from error
