"""opt-run: one run, or a sweep with `-m`.

Exit codes: 0 all finished, 1 a run failed, 2 a mistake in the command, 130 or 143 interrupted.
Help, `--cfg` and completion answer without importing torch.
"""

import logging
import sys
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from opt_runner.cli import mistakes
from opt_runner.config import compose
from opt_runner.training import interrupt, process


@hydra.main(version_base="1.3", config_path=str(compose.conf_dir()), config_name="config")
def _app(cfg: DictConfig) -> float | None:
    """One run; returns its validation error, for sweepers that optimise: None without validation.
    Failures are on disk."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return _run_of_a_sweep(cfg)
    with mistakes.told():
        code = _run_alone(cfg)
    if code:
        sys.exit(code)
    return None


def _run_alone(cfg: DictConfig) -> int:
    from opt_runner.console.screen import Screen
    from opt_runner.console.wandb import upload_hint
    from opt_runner.runs.execute import execute
    from opt_runner.runs.run import identify

    config = compose.read(cfg)
    screen = Screen(config.progress)
    run = identify(config, _command())
    with interrupt.stop_requests() as stop:
        result = execute(run, screen, in_sweep=False, stop=stop)
    if hint := upload_hint(config.tracking, config.output_dir):
        screen.say(hint)
    if result is not None and result.test_error_at_best is not None:
        screen.say(
            f"test error {result.test_error:.2f}%; at the best validation error, "
            f"{result.best_validation_error:.2f}% after step {result.best_step}, "
            f"{result.test_error_at_best:.2f}%"
        )
    screen.say(f"record: {run.record.directory}")
    return 0 if result is not None and result.status == "finished" else 1


def _run_of_a_sweep(cfg: DictConfig) -> float | None:
    """In a process of Hydra's or another's launcher, which may be this one."""
    from opt_runner.console.screen import Screen
    from opt_runner.runs.execute import execute
    from opt_runner.runs.run import identify

    config = compose.read(cfg)
    # Other processes may share the terminal: no bars.
    screen = Screen("none" if config.progress == "none" else "plain")
    with interrupt.stop_requests() as stop:
        with stop.at_once():
            run = identify(config, _command())
        result = execute(run, screen, in_sweep=True, stop=stop)
    return result.validation_error if result else None


def _command() -> str:
    """What makes the run that Hydra runs now, alone or in a sweep."""
    from opt_runner.runs.run import command_line

    hydra_config = HydraConfig.get()
    mine = [s.path for s in hydra_config.runtime.config_sources if s.provider == "command-line"]
    return command_line(mine, hydra_config.overrides.task)


def main() -> None:
    # argparse takes all positional arguments in one run: `a=1 -m b=2,3` would be a mistake.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    process.spin_briefly()
    interrupt.raise_on_sigterm()
    mistakes.take_over_from_hydra()
    logging.raiseExceptions = False  # a log that cannot be written is no reason to speak up
    try:
        with mistakes.told(all_are_mistakes=True):
            _app()
    except KeyboardInterrupt as error:
        _interrupted(error)


def _interrupted(error: KeyboardInterrupt) -> NoReturn:
    # With `rerun` what is done would be done again.
    reruns = any(word.startswith("rerun=") and word != "rerun=false" for word in sys.argv)
    same = "the same command without rerun" if reruns else "the same command"
    print(f"opt-run: interrupted; {same} goes on from here", file=sys.stderr)
    sys.exit(128 + int(getattr(error, "signum", 2)))
