"""Measure what OPT costs. Exit codes: 0 all parts ran, 1 a part failed, 2 a wrong command."""

import argparse
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from opt_runner.errors import UserError
from opt_runner.run import process

PARTS = {
    "steps": "whole training steps of every method against plain training; peak memory",
    "rotations": "one layer against torch's and geotorch's parametrizations and naive forms",
    "datapath": "batches against a DataLoader; the cost of logging and progress",
    "folder": "a folder of JPEG files: decoding, batches against a DataLoader, memory",
    "networks": "steps and memory on large networks: planned and measured",
    "growth": "time and memory of one rotation for d = 64 to 4,608, with plots",
}


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write part by part; a part that fails does not end the others."""
    given = parser().parse_args(arguments)
    process.spin_briefly()
    from benchmarks import report  # imports torch, which reads what spin_briefly set

    given.out.mkdir(parents=True, exist_ok=True)
    try:
        settings = report.Settings(**vars(given))
        failed = []
        for name in dict.fromkeys(given.parts or PARTS):
            try:
                measured = import_module(f"benchmarks.{name}").run(settings)
            except UserError:
                raise
            except Exception:
                traceback.print_exc()
                failed.append(name)
            else:
                command = shlex.join(["python", "-m", "benchmarks", *arguments])
                report.publish(name, measured, settings, command)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which a test of the documents reads."""
    parts = "\n".join(f"  {name:10} {measured}" for name, measured in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measure what OPT costs. The parts, all of them by default:\n\n{parts}",
        epilog="Tables go to the terminal, rows to OUT/PART.json, plots to OUT/growth*.png.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="part", choices=[*PARTS, []])
    add("--threads", type=int, metavar="N", default=2, help="CPU threads (default: 2)")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="default: auto")
    add("--samples", type=int, metavar="N", help="n of every figure (default: by the part)")
    add("--seconds", type=int, metavar="S", default=300,
        help="growth: time limit of a method over all sizes (default: 300)")  # fmt: skip
    add("--columns", type=int, metavar="N", default=64,
        help="growth: neurons of the layer (default: 64)")  # fmt: skip
    add("--network", action="append", default=[], metavar="NAME", dest="networks",
        help="steps, networks: only this network (may be given several times)")  # fmt: skip
    add("--batch-size", type=int, metavar="N",
        help="steps, networks: batch size (default: 128; 8 in networks)")  # fmt: skip
    add("--quick", action="store_true", help="tiny sizes, to try the program: times mean nothing")
    add("--plain-malloc", action="store_true", help="as with hardware.reuse_memory=false")
    add("--out", type=Path, metavar="DIR", default=Path("outputs/bench"))
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
