"""opt-export: a trained network as a file that runs without this package.

Exit codes: 0 written, 2 a mistake in the command, or a network that cannot be written so. Help
answers without importing torch.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from opt_runner.cli import mistakes
from opt_runner.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Execute `opt-export`, with the command line of this process if `argv` is None."""
    given = _parser().parse_args(argv)
    with mistakes.command_of_files("opt-export"):
        from opt_runner.console.screen import Screen
        from opt_runner.files import CannotWrite
        from opt_runner.trained import FORMATS, Trust, export, read

        screen = Screen("plain")
        trained = read(given.record, Trust(given.trust, given.config_dir))
        path = given.out or Path(trained.name + FORMATS[given.format])
        try:
            difference = export(trained, given.format, path)
        except CannotWrite as error:
            raise UserError(f"cannot write {path}: {error.reason}; set --out FILE") from error
        takes = trained.interface
        shape = ", ".join(map(str, ("N", *takes.shape)))
        scale = f", {takes.scale}" if takes.scale else ""
        size = f", {len(takes.classes)} classes" if takes.classes else ""
        screen.say(
            f"written: {path}, {path.stat().st_size / 1e6:.1f} MB: takes {takes.samples} ({shape})"
            f"{scale}; gives {takes.outputs}{size}"
        )
        if difference is not None:
            screen.say(f"read back and compared: the outputs differ by {difference:.0e} (relative)")
        elif given.format == "onnx":
            screen.say("not compared with the network: onnxruntime is not installed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opt-export",
        description="Write the network of a finished run, without a trace of OPT.",
        epilog="safetensors: the weights, for the network's own code; the others need no code of "
        "this package or of the network. onnx: a graph for onnxruntime and others, needs "
        "pip install onnx onnxscript onnxruntime; torch-export: a graph for torch.export.load.",
    )
    mistakes.add_record(parser)
    parser.add_argument("--format", choices=["safetensors", "onnx", "torch-export"],
                        default="safetensors", help="default: safetensors")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="default: named after the run, in the current folder")  # fmt: skip
    return parser
