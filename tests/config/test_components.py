"""Classes and functions of users: what an option cannot reach is said, and nothing is swallowed."""

import sys
from pathlib import Path

import pytest
import torch

from opt_runner.cli import mistakes
from opt_runner.config.choices import DatasetChoice, OptimizerChoice, ScheduleChoice
from opt_runner.config.components import Component, check
from opt_runner.config.compose import conf_dir, from_arguments, refuse_doubles
from opt_runner.errors import UserError
from opt_runner.opt import OPT
from opt_runner.run.build import optimizer_of
from tests.small import small_cnn

OWN = """
import torch

class Share:
    def __init__(self, share: float = 0.5): ...

class Sized:
    def __init__(self, size: int = 5): ...

def clipped(params, lr, weight_decay, clip=7.0): ...

class Warm:
    def __init__(self, warmup: int): ...

def hidden(num_classes, _hidden: int = 3): ...

def by_place(num_classes, width, /): ...

class AnyAdam(torch.optim.Adam):
    def __init__(self, params, **kwargs):
        super().__init__(params, **kwargs)
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"of_a_user": OWN, "unclosed": "x = (", "missing": "import numpyy"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "of_a_user", raising=False)


@pytest.mark.parametrize(
    ("kind", "target", "content", "says"),
    [
        (DatasetChoice, "Share", {"share": 0.3}, "'share', which is a key of every there"),
        (
            OptimizerChoice,
            "clipped",
            {"clip": 3, "lr": 1, "weight_decay": 0},
            "the parameter 'clip'",
        ),
        (ScheduleChoice, "Warm", {"warmup": 0.3}, "the parameter 'warmup'"),
        (Component, "hidden", {"_hidden": 3}, "'_hidden', which begins with _"),
        (
            Component,
            "by_place",
            {"width": 3},
            "'num_classes', which begins with _ or",
        ),
    ],
)
def test_a_parameter_that_no_option_reaches_is_refused(
    kind: type[Component], target: str, content: dict[str, float], says: str
) -> None:
    named = {"name": "mine", "_target_": f"of_a_user.{target}", **content}
    supplied = frozenset({"params", "lr", "weight_decay"})
    with pytest.raises(UserError) as caught:
        check(kind.model_validate(named), "there", supplied)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_keys_that_a_class_gets_too_are_no_fault() -> None:
    named = {"name": "mine", "_target_": "of_a_user.Sized", "size": 7}
    check(DatasetChoice.model_validate(named), "dataset", frozenset({"size"}))


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("unclosed", "SyntaxError: '(' was never closed"),
        ("missing", "ModuleNotFoundError: No module named 'numpyy'"),
        ("nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_the_reason_of_a_failed_import_is_said(
    module: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"cannot import") as caught:
        check(Component.model_validate({"name": "mine", "_target_": f"{module}.A"}), "method")
    assert says in str(caught.value)
    assert caplog.text == ""


def test_an_optimizer_of_any_keywords_gets_its_rate_and_weight_decay() -> None:
    config = from_arguments(
        "optimizer=adamw", "optimizer._target_=of_a_user.AnyAdam", "optimizer.lr=0.02",
        "optimizer.weight_decay=0.03", "optimizer.betas=[0.5,0.9]", "method=standard",
    )  # fmt: skip
    optimizer = optimizer_of(config, OPT(small_cnn(), "standard"))
    assert isinstance(optimizer, torch.optim.Adam)
    found = {
        (group["lr"], group["weight_decay"], group["betas"]) for group in optimizer.param_groups
    }
    assert found == {(0.02, 0.03, (0.5, 0.9))}


def test_a_file_of_the_packages_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["opt-run", "--config-dir", str(tmp_path), "method=cayley"])
    assert mistakes.config_dir() == tmp_path
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_text("name: mine\n")
    own = (conf_dir() / "method/gs.yaml").read_text()
    (tmp_path / "method/gs.yaml").write_text(own)  # a copy changes nothing
    refuse_doubles(tmp_path)
    (tmp_path / "method/cayley.yaml").write_text("name: cayley\n")
    with pytest.raises(UserError, match=r"cayley\.yaml has the name of a file of opt-runner"):
        refuse_doubles(tmp_path)


def test_a_schedule_without_a_warm_up_needs_no_key() -> None:
    assert ScheduleChoice.model_validate({"name": "mine", "_target_": "of_a_user.Warm"}).warmup == 0
