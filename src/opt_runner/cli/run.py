"""Command opt-run: one run, or a sweep with `-m`.

Exit codes: 0 all finished, 1 a run failed, 2 a mistake in the command, 130 or 143 interrupted.
Help, `--cfg` and completion answer without importing torch.
"""

import logging
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from opt_runner import __version__
from opt_runner.cli import mistakes
from opt_runner.config import compose
from opt_runner.config.overrides import with_quoted_texts
from opt_runner.config.schema import Config
from opt_runner.console.steady import make_steady
from opt_runner.errors import Elsewhere, UserError
from opt_runner.run import interrupt, process

if TYPE_CHECKING:
    from opt_runner.console.screen import Screen
    from opt_runner.records.result import Result
    from opt_runner.run.processes import Processes
    from opt_runner.run.run import Run


# Hydra's options whose next word is their value.
_WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun",
)  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(compose.conf_dir()), config_name="config")
def _app(cfg: DictConfig) -> float | None:
    """Execute one run. Return its validation error or None, for Hydra's sweepers that optimise.

    Failures are recorded on disk.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return _run_of_a_sweep(cfg)
    with mistakes.exit_on_error(quiet=mistakes.rank_0_reports()):
        own = HydraConfig.get()
        if own.run.dir != "." and not own.job.chdir:
            raise UserError(
                f"hydra.run.dir={own.run.dir} has no effect: set output_dir=DIR, or "
                "hydra.job.chdir=true too"
            )
        for word in own.overrides.hydra:
            if re.match(r"[+~]*hydra[/.](launcher|sweeper)\b", word):
                raise UserError(f"{word} has no effect on a single run: add -m for a sweep")
        config = compose.read(cfg)
    with mistakes.exit_on_error():
        result = _run_alone(config)
    if result is None or result.status != "finished":
        sys.exit(1)
    return result.validation_error


def _run_alone(config: Config) -> "Result | None":
    """Execute one run in this process, or in the processes that torchrun or srun started."""
    from opt_runner.console.screen import Screen
    from opt_runner.run.processes import joined
    from opt_runner.tracking import hints

    with joined(config.hardware) as processes:
        screen = Screen(config.progress if processes.first else "none")
        try:
            run, result = _execute(config, screen, processes, in_sweep=False)
        except interrupt.Interrupted as error:
            if processes.first:
                raise
            sys.exit(128 + error.signum)
    if processes.first:
        for hint in hints(config.tracking, config.output_dir):
            screen.say(hint)
        if result is not None and result.test_error_at_best is not None:
            assert result.test_error is not None
            assert result.best_validation_error is not None
            measure = result.measure
            screen.say(
                f"{measure.said('test', result.test_error)} at the end, and "
                f"{measure.value(result.test_error_at_best)} after step {result.best_step}, with "
                f"the best {measure.said('validation', result.best_validation_error)}"
            )
        screen.say(f"record: {run.record.directory}")
    return result


def _run_of_a_sweep(cfg: DictConfig) -> float | None:
    """Execute one run in a process of a launcher, which may be this one.

    Returns its validation error.
    """
    from opt_runner.console.screen import Screen
    from opt_runner.run.processes import joined

    config = compose.read(cfg)
    with joined(config.hardware) as processes:
        # No bars, because other processes may write to the same terminal.
        shows = processes.first and config.progress != "none"
        screen = Screen("plain" if shows else "none")
        try:
            _, result = _execute(config, screen, processes, in_sweep=True)
        except Elsewhere:  # rank 0 reports
            return None
    return result.validation_error if result else None


def _execute(
    config: Config, screen: "Screen", processes: "Processes", in_sweep: bool
) -> "tuple[Run, Result | None]":
    from opt_runner.run.execute import execute
    from opt_runner.run.run import identify

    with interrupt.stop_requests(once=not processes.several) as stop:
        with processes.together(), stop.at_once():
            own = HydraConfig.get()
            words = [*compose.config_arguments(own), *own.overrides.task]
            run = identify(config, compose.command(words))
        return run, execute(run, screen, in_sweep, stop, processes)


def main() -> None:
    """Run the command `opt-run`."""
    if "--version" in sys.argv[1:]:  # Hydra would print its own
        print(f"opt-runner {__version__}")
        return
    sys.argv[1:] = _options_first(map(_without_hyphens, sys.argv[1:]))
    sys.argv[1:] = with_quoted_texts(sys.argv[1:], compose.text_keys())
    process.spin_briefly()
    make_steady()
    mistakes.take_over_from_hydra()
    logging.raiseExceptions = False  # no message if a log cannot be written
    try:
        # After the block nothing is left to save, and a signal ends the program.
        with (
            interrupt.raised_signals(),
            mistakes.exit_on_error(hydra_runs=True, quiet=mistakes.rank_0_reports()),
        ):
            if (folder := mistakes.config_dir()) is not None:
                compose.refuse_doubles(folder)
            _app()
    except KeyboardInterrupt as error:
        # `rerun` would start again.
        reruns = any(word.startswith("rerun=") and word != "rerun=false" for word in sys.argv)
        same = "the same command without rerun" if reruns else "the same command"
        if not mistakes.rank_0_reports():
            print(f"opt-run: interrupted; {same} resumes", file=sys.stderr)
        sys.exit(128 + int(getattr(error, "signum", 2)))


def _options_first(words: Iterable[str]) -> list[str]:
    """Return Hydra's options with their values, then the overrides.

    argparse wants all overrides together, so `a=1 -m b=2,3` would be an error.
    """
    options, overrides = list[str](), list[str]()
    left = iter(words)
    for word in left:
        option = word.startswith("-")
        (options if option else overrides).append(word)
        if word in _WITH_VALUE:
            options += [value for value in [next(left, None)] if value is not None]
    return options + overrides


def _without_hyphens(word: str) -> str:
    """Return --KEY=VALUE, as agents of `wandb sweep` write it, as KEY=VALUE. Flags stay."""
    key, sign, _ = word.removeprefix("--").partition("=")
    ours = sign and word.startswith("--") and key.split(".")[0] in Config.model_fields
    return word[2:] if ours else word
