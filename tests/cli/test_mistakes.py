"""A user's mistake ends in one line and exit code 2, a programmer's error in a traceback and 1."""

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import opt_runner
from hydra_plugins.opt_runner.sweepers import GridSweeper
from opt_runner.cli.mistakes import exit_on_error
from opt_runner.config.compose import compose, conf_dir
from opt_runner.errors import UserError


def ended(work: Callable[[], Any], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the lines on standard error with which the block ends."""
    with pytest.raises(SystemExit) as error, exit_on_error(hydra_runs=True):
        work()
    assert error.value.code == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["optimizer={lrr:0.2}"],
            "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'? (opt-run --cfg job shows "
            "all keys)",
        ),
        (
            ["note=a=b"],
            "note=a=b: mismatched input '=' expecting <EOF>; quote a text for Hydra and the shell: "
            "'note=\"a=b\"'",
        ),
        (["+experiment=digits"], "+experiment=digits: without the plus, experiment=digits"),
        (["method=gs,hr"], "method=gs,hr: several values make a sweep: opt-run -m ..."),
        (
            ["method=gs,hr", "optimizer.lrr=0.2"],
            "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'? (opt-run --cfg job shows "
            "all keys)",
        ),
        (
            ["tracking=[csv,wanb]"],
            "tracking=wanb: no such choice; did you mean 'wandb'? (csv, mlflow, none, tensorboard, "
            "wandb)",
        ),
        (["seed"], "seed: missing EQUAL at '<EOF>'; write KEY=VALUE"),
        (
            ["experiment_name=[1]"],
            "experiment_name: must be a valid string, got [1]",
        ),
    ],
)
def test_a_mistake_in_an_override_is_named(
    overrides: list[str], says: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["opt-run", *overrides])
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert ended(lambda: compose("config", overrides), 2, capsys) == f"opt-run: {says}\n"


def test_an_error_of_hydra_itself_is_about_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work() -> None:
        OmegaConf.load("nowhere.yaml")

    assert "nowhere.yaml" in ended(work, 2, capsys)


def test_a_programmer_s_error_in_a_sweeper_s_set_up_is_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work() -> None:
        GridSweeper().setup(hydra_context=None, task_function=None, config=None)  # type: ignore[arg-type]

    said = ended(work, 1, capsys)
    assert said.startswith("Traceback")
    assert "sweepers.py" in said


def test_an_error_without_a_text_has_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise MemoryError

    assert ended(work, 2, capsys) == "opt-run: MemoryError\n"


@pytest.mark.parametrize(
    ("options", "arguments", "says"),
    [
        ({}, ["seed=range(0)"], r"seed=range\(0\) has no values"),
        ({}, ["seed=range(0,5,0)"], r"seed=range\(0,5,0\): "),
        ({}, ["optimizer.lr=interval(0,1)"], "a grid takes values, as optimizer.lr=1,2"),
        ({"grids": "x"}, [], "hydra.sweeper.grids: must be a valid tuple, got 'x'"),
        ({"params": "x"}, [], "hydra.sweeper.params: must be a valid dictionary, got 'x'"),
        ({"trials": 3}, [], "unknown key 'hydra.sweeper.trials'"),
    ],
)
def test_a_mistake_in_a_grid_is_named(
    options: dict[str, Any], arguments: list[str], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        GridSweeper(**options).jobs(arguments)


@pytest.mark.parametrize("command", ["run", "report", "eval", "export", "track"])
def test_the_version_is_the_package_s(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [f"opt-{command}", "--version"])
    with suppress(SystemExit):
        import_module(f"opt_runner.cli.{command}").main()
    assert capsys.readouterr().out == f"opt-runner {opt_runner.__version__}\n"


def test_the_package_shows_what_it_exports() -> None:
    assert {*opt_runner.__all__, "__version__"} <= {*dir(opt_runner)}
    for name in opt_runner.__all__:
        assert getattr(opt_runner, name).__name__ == name
