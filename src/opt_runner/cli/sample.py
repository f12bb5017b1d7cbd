"""opt-sample: text that the network of a finished run writes.

Exit codes: 0 written, 2 a mistake in the command. Help answers without importing torch.
"""

import argparse
from collections.abc import Sequence

from opt_runner.cli import mistakes


def main(argv: Sequence[str] | None = None) -> None:
    """Execute `opt-sample`, with the command line of this process if `argv` is None."""
    given = _parser().parse_args(argv)
    with mistakes.command_of_files("opt-sample"):
        # Slow to import: help must answer at once.
        from opt_runner.trained import Trust, read
        from opt_runner.trained.sampling import sample

        trained = read(given.record, Trust(given.trust, given.config_dir))
        text = sample(
            trained, given.prompt, given.length, given.temperature, given.top_k, given.seed
        )
        print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opt-sample",
        description="Write text by the network of a finished run on dataset=text.",
        epilog="Example: opt-sample RECORD --prompt 'The ' --length 500 --temperature 0.8",
    )
    mistakes.add_record(parser)
    parser.add_argument("--prompt", default="", help="the text to go on from")
    parser.add_argument("--length", type=mistakes.number(int, 1), default=300, metavar="N",
                        help="tokens to write, default: 300")  # fmt: skip
    parser.add_argument("--temperature", type=mistakes.number(float, 0), default=0.8, metavar="T",
                        help="0: always the most likely token; default: 0.8")  # fmt: skip
    parser.add_argument("--top-k", type=mistakes.number(int, 1), metavar="K",
                        help="draw only from the K most likely tokens")  # fmt: skip
    parser.add_argument("--seed", type=mistakes.number(int, 0), default=0, help="default: 0")
    return parser
