"""The moving average of weights, beside the network itself."""

from pathlib import Path

import pytest
import torch
from torch import nn

from opt_runner.opt import OPT, merge
from opt_runner.run.average import Average
from opt_runner.run.evaluate import numbers
from opt_runner.run.step import TrainingStep
from tests.run.test_validation import prepared, trained


def test_it_is_the_recursion_over_v_written_out() -> None:
    setup = prepared("method=cayley", "evaluate.ema=0.5", "model=mlp", "model.widths=[8]")
    assert isinstance(setup.average, Average)
    name = next(iter(setup.opt.effective_weights()))
    expected = setup.opt.effective_weights()[name].double()
    setup.opt.train()
    step = TrainingStep(setup)
    for done in (1, 2, 3):
        step()
        m = min(0.5, (1 + done) / (10 + done))
        expected = m * expected + (1 - m) * setup.opt.effective_weights()[name].double()
    plain = setup.average.network()
    torch.testing.assert_close(plain.get_parameter(name).double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(plain.get_parameter(name), merge(setup.opt).get_parameter(name))
    assert {*plain.state_dict()} == {*merge(setup.opt).state_dict()}


def test_it_has_what_trains_and_statistics_and_no_other_buffer() -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    network.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    network.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    opt = OPT(network, "cayley")
    average = Average(opt, 0.5)
    with torch.no_grad():
        network.phase += 1
        network[1].running_mean += 1
        network.mask[0] = 3
    average.update(100)
    plain = average.network()
    torch.testing.assert_close(plain.phase, torch.full_like(plain.phase, 1.5))
    torch.testing.assert_close(plain[1].running_mean, torch.full((6,), 0.5))
    assert plain.mask.tolist() == [3, float("-inf")]


def test_a_head_that_is_tied_and_covered_is_averaged() -> None:
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False))
    network[2].weight = network[0].weight
    opt = OPT(network, "cayley", include=["2", "1"])
    plain = Average(opt, 0.5).network()
    torch.testing.assert_close(plain[2].weight, merge(opt)[2].weight)


@pytest.mark.parametrize("held_back", [0, 0.2])
def test_it_is_tested_where_the_network_is(held_back: float) -> None:
    setup = prepared("evaluate.ema=0.9", f"dataset.validation={held_back}")
    result, recorder = trained(setup)
    assert setup.average is not None
    for row in recorder.rows:
        for part in ("test", "validation"):
            assert (f"ema_{part}_error" in row) == (f"{part}_error" in row)
    own = numbers(setup.average.network().eval(), setup.data, setup.data.test, setup.device)
    assert result.tested["ema_error"] == recorder.rows[-1]["ema_test_error"] == own["error"]


def test_training_is_the_same_with_and_without_it(tmp_path: Path) -> None:
    """And a second run of the average is equal to the first, to the bit."""
    alone, first, second = (trained(prepared(*o))[0] for o in ([], *[["evaluate.ema=0.9"]] * 2))
    assert alone.test_error == first.test_error
    assert alone.train_loss == first.train_loss == second.train_loss
    assert first.tested["ema_error"] == second.tested["ema_error"]
