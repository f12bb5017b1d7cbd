"""The runs that a grid's command line asks for."""

from hydra import initialize_config_dir

from hydra_plugins.opt_runner.sweepers import GridSweeper
from opt_runner.config.compose import conf_dir
from opt_runner.config.overrides import combinations


def test_every_combination_and_the_command_line_over_the_experiment() -> None:
    sweeper = GridSweeper(params={"method": "gs,hr", "seed": "0"})
    assert sweeper.jobs(["seed=1,2", "batch_size=64"]) == [
        ["method=gs", "seed=1", "batch_size=64"],
        ["method=gs", "seed=2", "batch_size=64"],
        ["method=hr", "seed=1", "batch_size=64"],
        ["method=hr", "seed=2", "batch_size=64"],
    ]


def test_several_grids_are_one_sweep() -> None:
    grids = [{"method": "standard"}, {"method": "mhe", "method.power": "0,1"}]
    sweeper = GridSweeper(params={"seed": "0,1"}, grids=grids)
    assert sweeper.jobs(["seed=3"]) == [
        ["seed=3", "method=standard"],
        ["seed=3", "method=mhe", "method.power=0"],
        ["seed=3", "method=mhe", "method.power=1"],
    ]


def test_glob_takes_the_choices_of_a_group() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert combinations(["method=glob(g*)", "seed=0,1"]) == [
            ["method=givens", "seed=0"], ["method=givens", "seed=1"],
            ["method=gs", "seed=0"], ["method=gs", "seed=1"],
        ]  # fmt: skip
