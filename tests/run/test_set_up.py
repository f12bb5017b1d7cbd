"""What the keys of `layers` and `model.weights` make of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from opt_runner.errors import UserError
from opt_runner.networks import MLP
from opt_runner.opt import merge
from opt_runner.records import weights
from opt_runner.run.run import identify
from opt_runner.run.set_up import Setup, set_up
from tests.config.test_config import composed
from tests.run.test_validation import Own

TINY = ["model=mlp", "model.widths=[8,6]", "budget.steps=12", "hardware.threads=1", "batch_size=32"]


def made(*overrides: str) -> Setup:
    return set_up(composed(*TINY, *overrides), Own().load())


def methods(setup: Setup) -> dict[str, str]:
    return {row.layer: row.method for row in setup.opt.summary().rows}


def test_several_methods_by_size_and_name() -> None:
    setup = made("layers.max_d=8", "layers.rest=[{method: sopt, options: {share: 0.5}}]")
    assert methods(setup) == {"features.1": "sopt", "features.4": "cayley", "classifier": "plain"}
    assert {type(stack.method).__name__: stack.layers[0].d for stack in setup.opt.stacks} == {
        "Cayley": 8, "StochasticOPT": 16,
    }  # fmt: skip
    setup = made("layers.include=['features.*','classifier']", "layers.exclude=['features.1']")
    assert methods(setup) == {"features.1": "plain", "features.4": "cayley", "classifier": "cayley"}


@pytest.mark.parametrize("method", ["standard", "cayley", "hr", "sopt", "ogd"])
def test_a_run_starts_from_a_file(tmp_path: Path, method: str) -> None:
    torch.manual_seed(1)
    given = MLP(1, (4, 4), 3, widths=(8, 6))
    path = tmp_path / "net.safetensors"
    save_file(given.state_dict(), path)
    setup = made(f"method={method}", f"model.weights={path}")
    x = torch.randn(5, 1, 4, 4)
    expected = given.eval()(x)
    torch.testing.assert_close(setup.opt.eval()(x), expected)
    torch.testing.assert_close(merge(setup.opt)(x), expected)
    with pytest.raises(
        UserError, match=r"of another shape: classifier.weight \(3, 6\) for \(3, 7\)"
    ):
        made(f"model.weights={path}", "model.widths=[8,7]")


def test_a_network_that_gives_no_tensor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, x: (forward(self, x), x))
    with pytest.raises(UserError, match=r"model: gives a tuple, expected a tensor of shape \(2, 3"):
        made()


def test_an_optimizer_without_weight_decay_gets_none() -> None:
    rprop = ["optimizer._target_=torch.optim.Rprop", "~optimizer.momentum", "~optimizer.nesterov"]
    with pytest.raises(
        UserError, match=r"Rprop takes no weight_decay: set optimizer\.weight_decay"
    ):
        made(*rprop)
    made(*rprop, "optimizer.weight_decay=0")


@pytest.mark.parametrize("value", [0.5, 0, -3, True, None, "text", [1, 2.5], {"a": "b"}])
def test_what_a_dataset_gives_is_in_the_record(tmp_path: Path, value: Any) -> None:
    gives = {"value": value}
    weights.check_gives(gives)
    interface = replace(Own().load().interface, gives=gives)
    weights.write(tmp_path / "net", torch.nn.Linear(9, 9), interface)
    found = weights.read_interface(tmp_path / "net").gives["value"]
    assert found == value or list(found) == list(value)


@pytest.mark.parametrize("value", [2**21, object(), [torch.ones(2)]])
def test_what_no_record_can_hold_is_refused_before_the_training(value: Any) -> None:
    with pytest.raises(UserError, match=r"dataset: it gives value=.* which a record cannot hold"):
        weights.check_gives({"value": value})


def test_w_may_be_drawn_anew() -> None:
    given, drawn = made(), made("layers.weights=gaussian")
    for name, W in given.opt.network.named_parameters():
        same = torch.equal(W, drawn.opt.network.get_parameter(name))
        assert same == (name not in ("features.1.weight", "features.4.weight"))


def test_a_batch_of_one_is_too_small_for_some_networks() -> None:
    with pytest.raises(UserError, match="batch_size=1 is too small for the model: Expected more"):
        made("batch_size=1")
    with pytest.raises(UserError, match=r"optimizer\.accumulate=5 leaves parts of 1 sample, which"):
        made("batch_size=6", "optimizer.accumulate=5")
    first, again = (
        set_up(composed(*TINY, "model=cnn6", f"batch_size={size}"), Own().load()) for size in (1, 2)
    )
    expected = dict(again.opt.named_buffers())
    assert all(torch.equal(value, expected[name]) for name, value in first.opt.named_buffers())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["dataset._target_=os.getcwd"],
            "dataset._target_: os.getcwd makes str, but must make: dataset",
        ),
        (["model._target_=collections.UserDict"], "makes UserDict, but must make: module"),
        (["method=standard", "method._target_=os.getcwd"], "makes str, but must make: method"),
        (
            ["+augment.then={name: a, _target_: os.getcwd}"],
            "makes str, but must make: augmentation",
        ),
    ],
)
def test_code_that_makes_something_else_is_named(overrides: list[str], says: str) -> None:
    config = composed(*TINY, *overrides)
    with pytest.raises(UserError, match=says) as caught:
        set_up(config, identify(config).dataset.load())
    assert len(str(caught.value).splitlines()) == 1


def test_nesterov_that_a_method_does_not_take_is_named() -> None:
    assert made("method=cayley", "optimizer.nesterov=true").remarks == []
    assert made("method=frame", "optimizer.nesterov=true").remarks == [
        "optimizer.nesterov=true has no effect on what frame moves by its own optimizer, only on "
        "the other parameters"
    ]


def test_a_factor_at_milestones_without_milestones_is_named() -> None:
    chosen = ["method=ogd", "method.rotation_factor=0.5"]
    assert made(*chosen, "schedule=milestones").remarks == []
    assert made("method=ogd", "schedule=cosine").remarks == []
    assert made(*chosen, "schedule=cosine").remarks == [
        "method.rotation_factor=0.5 has no effect: schedule=cosine has no milestones"
    ]
