"""The runs that a grid's command line asks for."""

from hydra_plugins.opt_runner.sweepers import GridSweeper


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
