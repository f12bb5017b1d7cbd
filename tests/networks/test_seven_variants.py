"""Eight networks by the paper's seven variants: each trains, goes on after a kill to the bit,
merges and is exported. All of it through opt-run's own loop and files.

Five are a user's, found by `--config-dir` alone: tests/networks/own.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from opt_runner.config.compose import from_arguments
from opt_runner.config.schema import Config
from opt_runner.console.screen import Screen
from opt_runner.datasets import normalise
from opt_runner.methods import PAPER
from opt_runner.opt import OPT, merge
from opt_runner.records.record import Record
from opt_runner.run import execute as execution
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.loop import train
from opt_runner.run.run import Run, identify
from opt_runner.run.set_up import Setup
from opt_runner.run.size import memory_of_step
from opt_runner.trained import Trust, export, read
from tests import commands
from tests.networks.own.large_digits import LargeDigits
from tests.small import rows

CONF = Path(__file__).parent / "own" / "conf"
REPOSITORY = Path(__file__).parents[2]
VARIANTS = [method for method in PAPER if method != "standard"]


def _rest(max_d: int, *include: str) -> list[str]:
    """R for all layers up to this d; a share of the rows of the larger ones."""
    names = f"[{','.join(include)}]" if include else "null"
    sopt = f"{{method: sopt, include: {names}, options: {{share: 0.05, round_steps: 3}}}}"
    return [f"layers.include={names}", f"layers.max_d={max_d}", f"layers.rest=[{sopt}]"]


# Two cores should do them all in minutes. What is smaller than published:
# - all: images of 32 x 32.
# - resnet18: layer3 and layer4, d up to 4,608, are plain; S-OPT where d = 1,152.
# - convnext_tiny: half the widths, blocks 1, 1, 2, 1 for 3, 3, 9, 3, larger at the start; S-OPT
#   where d > 384.
# - vit_b_16: half the width, two of twelve blocks; S-OPT where d > 384.
NETWORKS = {
    "resnet18": ["model=torchvision", "model.arch=resnet18",
                 *_rest(576, "conv1", "layer1.*", "layer2.*")],
    "mobilenet_v3_small": ["model=torchvision", "model.arch=mobilenet_v3_small"],
    "convnext_tiny": ["model=convnext", *_rest(384)],
    "vit_b_16": ["model=vit_tiny", "model.name=vit_b_16", "model.patch=16", "model.depth=2",
                 "model.width=384", "model.heads=6", "model.mlp_width=1536", *_rest(384)],
    "unet": ["model=unet"],
    "encoder": ["model=encoder"],
    "lstm": ["model=lstm", "layers.include=[lstm]", "optimizer.lr=1"],
    "mixer": ["model=mixer"],
}  # fmt: skip
# Quick enough for every run of the tests.
QUICK = {("unet", "gs"), ("encoder", "hr"), ("lstm", "ogd"), ("mixer", "or")}
STEPS, DIES_AT, SAVED_AT = 4, 3, 2

CASES = [
    pytest.param(
        network,
        variant,
        marks=[] if (network, variant) in QUICK else [pytest.mark.slow],
        id=f"{network}-{variant}",
    )
    for network in NETWORKS
    for variant in VARIANTS
]


class Killed(BaseException):
    """As a kill ends a process: nothing else gets a turn."""


@dataclass
class Trained:
    """start: the effective weights before the first step of this process."""

    run: Run
    setup: Setup
    start: dict[str, Tensor]


Train = Callable[..., Trained]


@cache
def _config(network: str, variant: str) -> Config:
    options = ["method.round_steps=3"] if variant == "sopt" else []
    return from_arguments(
        f"hydra.searchpath=['{CONF}']", "dataset=large_digits", f"method={variant}", *options,
        "optimizer.lr=0.01", *NETWORKS[network], f"budget.steps={STEPS}", "log.every=1",
        "checkpoint.every_steps=2", "evaluate.every=4", "tracking=none", "hardware=cpu",
        "hardware.threads=1",
    )  # fmt: skip


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Execute a run of a network with a variant, and keep what it trained with."""

    def run_it(network: str, variant: str, name: str) -> Trained:
        folder = {"output_dir": str(tmp_path / name)}
        run = identify(_config(network, variant).model_copy(update=folder))
        kept: list[Trained] = []

        def train_and_keep(setup: Setup, *arguments: Any) -> None:
            kept.append(Trained(run, setup, weights(setup.opt)))
            train(setup, *arguments)

        monkeypatch.setattr(execution, "train", train_and_keep)
        result = execution.execute(run, Screen("none"), in_sweep=False, stop=StopRequest())
        assert result is not None
        assert result.status == "finished", result.error
        return kept[0]

    return run_it


def weights(opt: OPT) -> dict[str, Tensor]:
    """The effective weights of what is covered."""
    covered = {layer.parameter for stack in opt.stacks for layer in stack.layers}
    plain = merge(opt)
    return {name: plain.get_parameter(name) for name in covered}


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Record.append_metrics

    def append_and_die(record: Record, row: dict[str, Any]) -> None:
        append(record, row)
        if row["step"] == step:
            raise Killed

    monkeypatch.setattr(Record, "append_metrics", append_and_die)


def state(setup: Setup) -> list[Any]:
    return tree_leaves([setup.opt.state_dict(), setup.optimizer.state_dict()])


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@torch.no_grad()
def difference(found: torch.nn.Module, expected: torch.nn.Module, x: Tensor) -> float:
    """The largest of the outputs, relative to the largest output."""
    wanted = expected(x)
    return float((found(x) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(("network", "variant"), CASES)
def test_it_trains_goes_on_and_merges(
    network: str,
    variant: str,
    trained: Train,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    uncut = trained(network, variant, "uncut")
    opt, data = uncut.setup.opt, uncut.setup.data
    losses = [row["train_loss"] for row in rows(uncut.run) if "train_loss" in row]
    assert losses[-1] < losses[0], "every step has all images"
    moved = {name: not torch.equal(V, uncut.start[name]) for name, V in weights(opt).items()}
    # Of a depthwise kernel on an image of one pixel only the middle row of W has a gradient, which
    # S-OPT may not draw.
    still = [name for name in moved if not moved[name]]
    assert len(still) <= (len(moved) // 3 if variant == "sopt" else 0), still

    with monkeypatch.context() as patched:
        kill_at(DIES_AT, patched)
        with pytest.raises(Killed):
            trained(network, variant, "cut")
    cut = trained(network, variant, "cut")
    assert f"resumes from step {SAVED_AT} of {STEPS}" in cut.run.record.log.read_text()
    assert rows(cut.run) == rows(uncut.run)
    assert all(map(same, state(cut.setup), state(uncut.setup)))
    assert cut.run.record.weights.read_bytes() == uncut.run.record.weights.read_bytes()

    plain = read(cut.run.record.directory, Trust(everything=True)).network
    assert type(plain) is type(opt.network)
    opt.eval()
    x = normalise(data.test.inputs)
    found = max(difference(one, opt, x) for one in (plain, merge(opt)))
    assert found <= 1e-5
    if variant != "or":
        assert (opt.orthogonality_error() or 0) < 2e-5
    result = uncut.run.record.read_result()
    assert result is not None
    record_property("difference", found)
    record_property("seconds a step", result.seconds / STEPS)
    record_property("rotated", len([r for r in opt.summary().rows if r.method == variant]))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_it_is_exported(
    network: str, trained: Train, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """One variant will do: `read` has put the weights of each into the plain network."""
    pytest.importorskip("onnxruntime")
    run = trained(network, "cayley", "runs").run
    record = read(run.record.directory, Trust(everything=True))
    for kind in ("torch-export", "onnx"):
        found = export(record, kind, tmp_path / kind)
        assert found is not None
        assert found <= 1e-5
        record_property(kind, found)


@pytest.mark.parametrize("network", NETWORKS)
def test_its_step_is_planned_from_its_shapes(network: str) -> None:
    images = LargeDigits().load()
    cpu = torch.device("cpu")
    plain = memory_of_step(_config(network, "standard"), images, cpu)
    cayley = memory_of_step(_config(network, "cayley"), images, cpu)
    assert plain is not None
    assert cayley is not None
    assert plain < cayley


@pytest.mark.slow
def test_the_commands_know_a_users_network_by_its_folder(tmp_path: Path) -> None:
    def command(name: str, *arguments: str) -> str:
        path, variables = Path(sys.executable).with_name(name), os.environ | {"PYTHONPATH": paths}
        done = commands.run([path, *arguments], cwd=tmp_path, env=variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    choices = ["model=mixer", "dataset=large_digits", "tracking=none", "hardware=cpu"]
    assert "mixer" in command("opt-run", "--config-dir", str(CONF), *choices)
    (result,) = tmp_path.glob("outputs/**/result.json")
    said = command("opt-export", str(result.parent), "--format", "torch-export", "--out",
                   "net.pt2", "--config-dir", str(CONF))  # fmt: skip
    assert "read back and compared" in said
