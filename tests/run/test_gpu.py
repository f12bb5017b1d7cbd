"""Training on a GPU, which may be a simulated one: as on the CPU, and without waiting for it."""

import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir

from benchmarks.workloads import Workload
from opt_runner import OPT, merge
from opt_runner.config.compose import compose, conf_dir
from opt_runner.console.screen import Screen
from opt_runner.methods import METHODS
from opt_runner.records.record import Record
from opt_runner.records.result import Result
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import Interrupted, StopRequest
from opt_runner.run.run import Run, identify
from opt_runner.run.set_up import set_up
from opt_runner.run.step import TrainingStep
from tests.gpu import Gpu
from tests.slow import slow
from tests.small import SOME_METHODS, small_cnn

# Its decomposition, and torch's or geotorch's map, tell the CPU whether they succeeded.
WAITING = {"parametrization", "spel", "manifold_muon", "sso"}
# Rounds end between the steps, and draw on the CPU.
ROUNDS = {"sopt": ["method.round_steps=2"], "poet": ["method.round_steps=2"]}
STEPS = 4

NETWORK = ("model=cnn6", "model.widths=[6,6]", "model.fc_width=6")  # layers of one size among them
WORKLOAD = Workload((*NETWORK, "batch_size=8", "augment.pad=1"), channels=3, side=8, count=32)


def training(method: str, hardware: str) -> TrainingStep:
    arguments = [f"method={method}", f"hardware={hardware}", "hardware.threads=1"]
    config = WORKLOAD.config(*arguments, *ROUNDS.get(method, []))
    return TrainingStep(set_up(config, WORKLOAD.images()))


# One of each kind; the others are slow tests.
QUICK = {*SOME_METHODS, "boft", "givens", "hra", "landing", "pion", "spel", "srip"}


@pytest.mark.parametrize(
    "method",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_every_method_trains_as_on_the_cpu_without_waiting(method: str, gpu: Gpu) -> None:
    here, there = (training(method, hardware) for hardware in ("cpu", "cuda"))
    for _ in range(STEPS):
        here()
    there()  # what is made once may wait
    with nullcontext() if method in WAITING else gpu.no_waits():
        for _ in range(STEPS - 1):
            there()
    assert not there.diverged_at()
    trained = dict(there.setup.opt.named_parameters())
    assert {tensor.device for tensor in trained.values()} == {gpu.device}
    for name, expected in here.setup.opt.named_parameters():
        torch.testing.assert_close(trained[name].cpu(), expected, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    "method",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(WAITING)
    ],
)
def test_these_wait_in_each_step(method: str, gpu: Gpu) -> None:
    step = training(method, "cuda")
    step()
    with gpu.no_waits(), pytest.raises(RuntimeError, match=r"wait|synchroniz"):
        step()


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """An identified run of opt-run on so many steps, of overrides."""

    def identified(*overrides: str) -> Run:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            small = [
                f"output_dir={tmp_path}", "model=cnn6_narrow", "model.widths=[8,8,8]",
                "dataset.share=0.1", "batch_size=32", "augment.pad=1", "tracking=none",
                "hardware.threads=1", "budget.steps=8", "evaluate.every=4", "log.every=1",
            ]  # fmt: skip
            return identify(compose("config", [*small, *overrides]))

    return identified


def finish(run: Run, stop: StopRequest | None = None) -> Result:
    result = execute(run, Screen("none"), in_sweep=True, stop=stop or StopRequest())
    assert result is not None
    assert result.status == "finished", result.error
    return result


@pytest.mark.parametrize(
    ("method", "images"), [("standard", "device"), ("sopt", "device"), ("cayley", "streamed")]
)
def test_a_run_leaves_the_record_that_the_cpu_leaves(
    method: str, images: str, run: Any, gpu: Gpu
) -> None:
    overrides = [f"method={method}", f"hardware.images={images}", "dataset.validation=0.1"]
    here, there = (run(*overrides, f"hardware={hardware}") for hardware in ("cpu", "cuda"))
    expected, result = finish(here), finish(there)
    assert result.train_loss == pytest.approx(expected.train_loss, rel=1e-3)
    assert result.validation_error == pytest.approx(expected.validation_error, abs=1.5)
    rows, expected_rows = there.record.read_metrics(), here.record.read_metrics()
    assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
    assert [row.keys() for row in rows] == [row.keys() for row in expected_rows]
    weights = torch.load(there.record.weights, map_location="cpu", weights_only=True)
    assert weights.keys() == torch.load(here.record.weights, weights_only=True).keys()


@pytest.mark.parametrize("method", ["frame", "sopt", *slow("cayley", "poet")])
def test_a_run_that_is_cut_ends_in_the_bits_of_an_uncut_one(
    method: str, run: Any, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_method = [f"method={method}", "hardware=cuda", *ROUNDS.get(method, [])]
    uncut = run(*of_method, "experiment_name=uncut")
    cut = run(*of_method, "experiment_name=cut")
    finish(uncut)
    stop, append = StopRequest(), Record.append_metrics

    def append_and_stop(record: Record, row: dict[str, Any]) -> None:
        append(record, row)
        if row["step"] == 5:
            stop.ask(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Record, "append_metrics", append_and_stop)
        with pytest.raises(Interrupted):
            finish(cut, stop)
    assert not cut.record.weights.exists()
    finish(cut)
    assert cut.record.weights.read_bytes() == uncut.record.weights.read_bytes()


def test_opt_goes_to_a_gpu_and_leaves_a_plain_network_there(gpu: Gpu) -> None:
    opt = OPT(small_cnn(), "cayley").to(gpu.device)
    x = torch.randn(4, 3, 8, 8).to(gpu.device)
    plain = merge(opt).eval()
    assert {parameter.device for parameter in plain.parameters()} == {gpu.device}
    torch.testing.assert_close(plain(x).cpu(), opt.eval()(x).cpu(), rtol=1e-4, atol=1e-5)
