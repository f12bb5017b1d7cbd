"""Checkpoints: the newest that is whole is used, and nothing else ever is."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opt_runner import OPT
from opt_runner.errors import UserError
from opt_runner.files import CannotWrite
from opt_runner.networks import MLP
from opt_runner.records import checkpoint
from opt_runner.records.record import Record

SIGNATURE = "abc"


class SmallRun:
    """A small network in training, and its record."""

    def __init__(self, directory: Path) -> None:
        torch.manual_seed(0)
        directory.mkdir(exist_ok=True)
        self.record = Record(directory)
        self.opt = OPT(MLP(1, (4, 4), 3, widths=(8,)), method="cayley")
        self.optimizer = self.opt.optimizer(lr=0.1)
        self.said: list[str] = []

    def step(self, step: int) -> None:
        loss = self.opt(torch.randn(5, 1, 4, 4)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.record.append_metrics({"step": step})

    def save(self, step: int) -> None:
        checkpoint.save(self.record, SIGNATURE, self.opt, self.optimizer, {"step": step})

    def load(self, signature: str = SIGNATURE) -> dict[str, Any] | None:
        return checkpoint.load(self.record, signature, self.opt, self.optimizer, self.said.append)

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.opt.parameters()]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[SmallRun, dict[int, list[torch.Tensor]]]:
    """A run with checkpoints of steps 1 and 2 that is at step 3, and its weights at 1 and 2."""
    run, weights = SmallRun(tmp_path / "run"), {}
    for step in (1, 2):
        run.step(step)
        run.save(step)
        weights[step] = run.weights()
    run.step(3)
    return run, weights


def is_at(run: SmallRun, weights: list[torch.Tensor], step: int) -> bool:
    rows = run.record.read_metrics()
    same = all(map(torch.equal, run.weights(), weights))
    return same and rows == [{"step": n + 1} for n in range(step)]


def test_the_newest_is_used_and_the_one_before_is_kept(saved) -> None:
    run, weights = saved
    assert run.load() == {"step": 2}
    assert is_at(run, weights[2], 2)
    assert run.record.previous_checkpoint.exists()
    assert not run.said


DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-100],
    "half": lambda content: content[: len(content) // 2],
    "other bytes": lambda content: b"x" * len(content),
    "text": lambda content: b"no checkpoint",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_named_and_kept_and_the_one_before_is_used(saved, damage: str) -> None:
    run, weights = saved
    bad = DAMAGE[damage](run.record.checkpoint.read_bytes())
    run.record.checkpoint.write_bytes(bad)
    assert run.load() == {"step": 1}
    assert is_at(run, weights[1], 1)
    (line,) = run.said
    assert "checkpoint.pt is damaged" in line
    assert line.endswith("set aside as checkpoint.pt.damaged-1")
    assert run.record.directory.joinpath("checkpoint.pt.damaged-1").read_bytes() == bad


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_altered_state_is_ever_used(saved, where: float, bit: int) -> None:
    """torch.load itself takes a weight with an altered bit without a word."""
    run, weights = saved
    run.record.metrics.write_text("".join(f'{{"step": {n}}}\n' for n in (1, 2, 3)))
    whole = {path: path.read_bytes() for path in run.record.checkpoints()}
    altered = bytearray(whole[run.record.checkpoint])
    altered[int(where * len(altered))] ^= 1 << bit
    run.record.checkpoint.write_bytes(altered)
    try:
        progress = run.load()
        assert progress is not None
        assert is_at(run, weights[progress["step"]], progress["step"])
    finally:
        for path, content in whole.items():
            path.write_bytes(content)


def test_both_damaged_starts_over(saved) -> None:
    run, _ = saved
    for path in run.record.checkpoints():
        path.write_bytes(b"")
    assert run.load() is None
    assert len(run.said) == 2
    assert not run.record.checkpoints()


def test_metrics_that_are_lost_start_over_and_nothing_is_deleted(saved) -> None:
    run, _ = saved
    run.record.metrics.write_text("{}\n")
    assert run.load() is None
    names = {path.name for path in run.record.directory.iterdir()}
    aside = {"metrics.jsonl", "checkpoint.pt", "checkpoint.previous.pt"}
    assert names == {f"{name}.damaged-1" for name in aside}


def test_the_checkpoint_of_another_cell_is_refused_and_left_alone(saved) -> None:
    run, _ = saved
    before = run.record.checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"checkpoint of another run \(abc, here xyz\)"):
        run.load("xyz")
    assert run.record.checkpoint.read_bytes() == before


def test_one_that_cannot_be_written_leaves_both(saved, monkeypatch) -> None:
    run, weights = saved

    def full(*arguments: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file: no space")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CannotWrite, match=r"checkpoint\.pt: .* make room"):
        run.save(3)
    assert run.load() == {"step": 2}
    assert is_at(run, weights[2], 2)
    assert run.record.previous_checkpoint.exists()


def test_a_tensor_in_its_place_is_damaged(saved) -> None:
    run, weights = saved
    torch.save(torch.zeros(3), run.record.checkpoint)
    assert run.load() == {"step": 1}
    assert is_at(run, weights[1], 1)
    assert "is damaged (it holds a Tensor)" in run.said[0]


def test_the_disk_s_own_reason_is_told(saved) -> None:
    run, weights = saved
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(CannotWrite, match=r"checkpoint\.pt: File too large; make room"):
            run.save(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.load() == {"step": 2}
    assert is_at(run, weights[2], 2)


def test_one_that_cannot_be_read_back_does_not_take_the_name(saved, monkeypatch) -> None:
    run, weights = saved
    monkeypatch.setattr(torch, "save", lambda state, file: file.write(b"PK not a checkpoint"))
    with pytest.raises(CannotWrite, match="reads back damaged"):
        run.save(3)
    assert run.load() == {"step": 2}
    assert is_at(run, weights[2], 2)
