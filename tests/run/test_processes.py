"""Several processes train as one: the same weights, the same end, errors of any for all.

Each group of processes is started once; what its members found is then looked at test by test.
"""

import copy
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from opt_runner import OPT
from opt_runner.config.compose import conf_dir, read
from opt_runner.config.schema import Config
from opt_runner.datasets.digits import Digits
from opt_runner.errors import Elsewhere, UserError
from opt_runner.run.evaluate import Diverged, evaluate
from opt_runner.run.interrupt import Interrupted, StopRequest
from opt_runner.run.loop import train
from opt_runner.run.processes import ALONE, Processes, joined
from opt_runner.run.reporter import Reporter
from opt_runner.run.set_up import Setup, set_up
from opt_runner.run.step import TrainingStep
from opt_runner.run.whole_batch import GlobalBatchNorm, GlobalDropout, make_global
from tests.small import SOME_METHODS, new_result

STEPS = 8
NETWORKS = {
    "cnn": ["model=cnn6", "model.widths=[4,4]", "model.fc_width=6"],
    "mlp": ["model=mlp", "model.widths=[12,8]"],
}
SMALL = [
    "batch_size=60", f"budget.steps={STEPS}", "optimizer.lr=0.02", "hardware=cpu",
    "hardware.threads=1", "hardware.precision=float64", "hardware.reuse_memory=false",
    "tracking=none",
]  # fmt: skip
Found = dict[str, Any]


def config(method: str, *more: str, network: str = "cnn") -> Config:
    rounds = ["method.round_steps=6"] if method in ("sopt", "poet") else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return read(
            compose("config", [f"method={method}", *rounds, *NETWORKS[network], *SMALL, *more])
        )


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items() if isinstance(v, Tensor)}


VARIANTS = {method: ("cnn", method) for method in SOME_METHODS}
VARIANTS["gs of an mlp"] = ("mlp", "gs")


def of_methods(processes: Processes) -> Found:
    found: Found = {}
    for variant, (network, method) in VARIANTS.items():
        chosen = config(method, network=network)
        setup = set_up(chosen, Digits().load(), processes)
        setup.opt.train()
        step = TrainingStep(setup)
        losses = []
        for _ in range(STEPS):
            step()
            losses.append(float(step.loss))
        result = new_result()
        evaluate(setup, result, last=True)
        found[variant] = {
            "losses": torch.tensor(losses, dtype=torch.float64),
            "state": tensors(setup.opt),
            "test_error": result.test_error,
            "energy": result.end.energy,
            "orthogonality_error": result.orthogonality_error or 0.0,
            "momentum": {
                f"{number}.{name}": tensor.clone()
                for number, state in setup.optimizer.state_dict()["state"].items()
                for name, tensor in state.items()
                if isinstance(tensor, Tensor)
            },
        }
    return found


# BatchNorm of every kind, on parts of a batch of its own.
NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(3), (12, 3)),
    "1d of sequences": (lambda: nn.BatchNorm1d(3, momentum=0.3), (12, 3, 5)),
    "2d": (lambda: nn.BatchNorm2d(3, eps=1e-3), (12, 3, 4, 5)),
    "3d": (lambda: nn.BatchNorm3d(3), (12, 3, 2, 2, 2)),
    "plain mean": (lambda: nn.BatchNorm2d(3, momentum=None), (12, 3, 4, 5)),
    "without weights": (lambda: nn.BatchNorm2d(3, affine=False), (12, 3, 4, 5)),
    "without statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (12, 3, 4, 5)),
}


def of_norms(processes: Processes) -> Found:
    found: Found = {}
    for name, (build, shape) in NORMS.items():
        generator = torch.Generator().manual_seed(1)
        norm = nn.Sequential(build().double())
        for parameter in norm.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).double()
        if processes.several:
            make_global(norm, processes)
            assert type(norm[0]) is GlobalBatchNorm
        for _ in range(2):
            x = 3 + 2 * torch.randn(shape, generator=generator).double()
            x = x[processes.part(len(x))].requires_grad_()
            y = norm(x)
            weights = torch.randn(shape, generator=generator).double()
            (y * weights[processes.part(len(weights))]).sum().backward()
        parts = {"y": y.detach(), "x.grad": x.grad}
        sums = {f"{key}.grad": parameter.grad for key, parameter in norm.named_parameters()}
        norm.eval()
        found[name] = {
            **{key: torch.cat(processes.gather(part)) for key, part in parts.items()},
            **{key: sum(processes.gather(part)) for key, part in sums.items()},
            **tensors(norm),
            "eval": norm(torch.ones(shape).double()).detach(),
        }
    return found


def library_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 8), nn.ReLU(),
        nn.Linear(8, 10),
    ).double()  # fmt: skip


def of_the_library(processes: Processes) -> Found:
    """PyTorch's own DistributedDataParallel around OPT."""
    found: Found = {}
    for method in SOME_METHODS:
        options = {"round_steps": 4} if method in ("sopt", "poet") else {}
        opt = OPT(library_network(), method, **options)
        optimizer = opt.optimizer(lr=0.02)
        model = DistributedDataParallel(opt) if processes.several else opt
        generator = torch.Generator().manual_seed(1)
        for _ in range(10):
            x = torch.rand(12, 1, 8, 8, generator=generator).double()
            y = torch.randint(10, (12,), generator=generator)
            part = processes.part(12)
            loss = nn.functional.cross_entropy(model(x[part]), y[part]) + opt.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[method] = tensors(opt)
    return found


def of_dropout(processes: Processes) -> Found:
    """The masks of a batch, channels first and last, drawn twice."""
    dropout = nn.Sequential(nn.Dropout(0.4))
    if processes.several:
        make_global(dropout, processes)
        assert type(dropout[0]) is GlobalDropout
    found: Found = {}
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(1)
        x = torch.rand(12, 3, 4, 5, dtype=torch.float64).to(memory_format=memory_format)
        x = x[processes.part(len(x))].requires_grad_()
        ys = [dropout(x) for _ in range(2)]
        sum(ys).sum().backward()
        for name, part in (("first", ys[0]), ("second", ys[1]), ("grad", x.grad)):
            found[f"{memory_format} {name}"] = torch.cat(processes.gather(part.detach()))
        dropout.eval()
        assert torch.equal(dropout(x), x)
        dropout.train()
    return found


class Silent(Reporter):
    """A reporter that counts checkpoints."""

    def __init__(self) -> None:
        self.saved: list[int] = []

    def save(self, progress: dict[str, Any]) -> None:
        self.saved.append(progress["result"]["steps"])


class StopAfter(StopRequest):
    """Asked to stop once it was looked at so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property  # type: ignore[override]
    def signum(self) -> int | None:
        self.looks -= 1
        return signal.SIGTERM if self.looks < 0 else None

    @signum.setter
    def signum(self, value: int | None) -> None:
        self.told = value


def small(processes: Processes, *more: str) -> Setup:
    return set_up(config("cayley", *more), Digits().load(), processes)


def of_ends(processes: Processes) -> Found:
    """How the loop ends where one process alone has a reason to."""
    last = processes.rank == processes.count - 1
    found: Found = {}

    reporter, result = Silent(), new_result()
    stop = StopAfter(5) if last else StopRequest()
    try:
        train(small(processes, "checkpoint.every_seconds=1000"), result, reporter, stop)
    except Interrupted as error:
        found["stopped"] = (result.steps, error.signum, reporter.saved)

    reporter, result = Silent(), new_result()
    seconds = "0" if last else "1000"
    train(small(processes, f"checkpoint.every_seconds={seconds}"), result, reporter, StopRequest())
    found["saved"] = reporter.saved

    reporter, result, stop = Silent(), new_result(), StopRequest()
    stop.save = last
    train(small(processes, "checkpoint.every_seconds=1000"), result, reporter, stop)
    found["saved once"] = (reporter.saved, stop.save)

    setup, result = small(processes, "log.every=1"), new_result()
    batch = setup.batches.batch

    def batch_with_nan(step: int) -> tuple[Tensor, Tensor]:
        x, y = batch(step)
        return (x * float("nan"), y) if last and step == 6 else (x, y)

    # Without BatchNorm, which would hand the NaN on by itself.
    for name, module in list(setup.opt.network.named_modules()):
        if isinstance(module, GlobalBatchNorm):
            setup.opt.network.set_submodule(name, nn.Identity())
    setup.batches.batch = batch_with_nan  # type: ignore[method-assign]
    try:
        train(setup, result, Silent(), StopRequest())
    except Diverged as error:
        found["diverged"] = str(error)
    return found


def of_errors(processes: Processes) -> Found:
    last = processes.rank == processes.count - 1
    found: Found = {"shared": processes.share(f"of {processes.rank}")}
    for error in (UserError("a mistake"), KeyError("a bug")):
        try:
            with processes.together():
                if last:
                    raise error
        except Exception as caught:
            notes = "".join(getattr(caught, "__notes__", []))
            found[type(error).__name__] = (type(caught), str(caught), "of_errors" in notes)
    stop = StopRequest()
    try:
        with processes.together(), stop.at_once():
            if last:
                stop.ask(signal.SIGTERM)
    except Interrupted as caught:
        found["Interrupted"] = caught.signum
    try:
        small(processes, "batch_size=61")
    except UserError as error:
        found["batch_size"] = str(error)
    try:
        odd = nn.Sequential(type("Odd", (nn.BatchNorm2d,), {})(3))
        make_global(odd, processes)
    except UserError as error:
        found["odd"] = str(error)
    try:
        make_global(nn.Sequential(nn.Dropout2d(0.1)), processes)
    except UserError as error:
        found["dropout"] = str(error)
    try:
        small(processes, f"batch_size={15 * processes.count}", "augment.mixup=0.2")
    except UserError as error:
        found["mixup"] = str(error)
    # The last thing: one leaves, the others are in the middle of a step.
    if last:
        processes.fail(ValueError("no memory"))
        return found
    try:
        processes.sum_(torch.ones(3))
    except Elsewhere as error:
        found["left"] = str(error)
    # The first one holds the store, where the others look for the reason.
    while processes.store.add("know why", processes.rank > 0) < processes.count - 2:
        time.sleep(0.01)
    return found


PARTS = {
    "methods": of_methods,
    "norms": of_norms,
    "dropout": of_dropout,
    "library": of_the_library,
    "ends": of_ends,
    "errors": of_errors,
}
# What three processes could do otherwise than two.
PARTS_OF_THREE = ("methods", "norms", "dropout", "errors")


def member(rank: int, count: int, folder: str) -> None:
    torch.set_num_threads(1)
    environment = {
        "RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost",
        "MASTER_PORT": (Path(folder) / "port").read_text(), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, str(value))
        joining = joined(config("gs").hardware)
        processes = joining.__enter__()  # it ends with a failure, after which nothing is joined
    assert (processes.rank, processes.count) == (rank, count)
    looked_at = PARTS if count == 2 else PARTS_OF_THREE
    found = {name: PARTS[name](processes) for name in looked_at}
    torch.save(found, Path(folder) / f"{rank}.pt")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def alone() -> Found:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {name: PARTS[name](ALONE) for name in ("methods", "norms", "dropout", "library")}
    torch.set_num_threads(threads)
    return found


def found_by(count: int, folder: Path) -> list[Found]:
    """What each process of a group finds, by rank."""
    (folder / "port").write_text(str(free_port()))
    # The imports once, whatever the number of processes.
    torch.multiprocessing.set_forkserver_preload([__name__])
    torch.multiprocessing.start_processes(
        member, (count, str(folder)), nprocs=count, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return found_by(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return found_by(3, tmp_path_factory.mktemp("three"))


@pytest.fixture(params=["two", pytest.param("three", marks=pytest.mark.slow)])
def group(request: pytest.FixtureRequest) -> list[Found]:
    found: list[Found] = request.getfixturevalue(request.param)
    return found


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert distance(tensor, expected[name]) < 1e-12, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_several_processes_train_as_one(group: list[Found], alone: Found, variant: str) -> None:
    found, expected = group[0]["methods"][variant], alone["methods"][variant]
    assert_same(found["state"], expected["state"])
    assert_same(found["momentum"], expected["momentum"])
    assert distance(found["losses"], expected["losses"]) < 1e-12
    assert found["test_error"] == expected["test_error"]
    assert found["energy"] == pytest.approx(expected["energy"], rel=1e-12)
    assert found["orthogonality_error"] == pytest.approx(expected["orthogonality_error"], abs=1e-12)
    for member in group[1:]:
        other = member["methods"][variant]
        for key in ("state", "momentum"):
            assert all(torch.equal(other[key][name], value) for name, value in found[key].items())


@pytest.mark.parametrize("norm", NORMS)
def test_batchnorm_is_that_of_the_whole_batch(group: list[Found], alone: Found, norm: str) -> None:
    assert_same(group[0]["norms"][norm], alone["norms"][norm])


def test_dropout_is_that_of_the_whole_batch(group: list[Found], alone: Found) -> None:
    for name, expected in alone["dropout"].items():
        assert all(torch.equal(member["dropout"][name], expected) for member in group), name


@pytest.mark.parametrize("method", SOME_METHODS)
def test_distributed_data_parallel_around_opt_trains_as_one_process(
    two: list[Found], alone: Found, method: str
) -> None:
    assert_same(two[0]["library"][method], alone["library"][method])


def test_a_signal_to_one_process_stops_all_at_the_same_step(two: list[Found]) -> None:
    ends = [member["ends"]["stopped"] for member in two]
    step, signum, saved = ends[0]
    assert all(end == ends[0] for end in ends)
    assert 1 <= step < STEPS
    assert signum == signal.SIGTERM
    assert saved == [step]


def test_where_one_wants_to_save_all_do(two: list[Found]) -> None:
    assert all(member["ends"]["saved"] == list(range(1, STEPS + 1)) for member in two)


def test_a_request_to_save_to_one_process_is_one_to_all(two: list[Found]) -> None:
    assert [member["ends"]["saved once"] for member in two] == [([1], False)] * 2


def test_nan_in_one_process_is_divergence_in_all(two: list[Found]) -> None:
    found = [member["ends"]["diverged"] for member in two]
    assert found == ["loss is not finite at step 7"] * 2


def test_the_first_shares_a_value(group: list[Found]) -> None:
    assert {member["errors"]["shared"] for member in group} == {"of 0"}


def test_an_error_of_one_process_is_told_by_the_first(group: list[Found]) -> None:
    first, *others = [member["errors"] for member in group]
    failed = len(group) - 1
    assert first["UserError"][:2] == (UserError, f"process {failed}: a mistake")
    assert first["KeyError"] == (Elsewhere, f"process {failed}: KeyError: 'a bug'", True)
    assert all(other["UserError"][0] is Elsewhere for other in others)
    assert all(other["KeyError"][0] is Elsewhere for other in others)


def test_a_signal_to_one_process_before_the_first_step_stops_all(group: list[Found]) -> None:
    assert [member["errors"]["Interrupted"] for member in group] == [signal.SIGTERM] * len(group)


def test_who_is_left_learns_why(group: list[Found]) -> None:
    failed = len(group) - 1
    for member in group[:-1]:
        assert member["errors"]["left"] == f"process {failed}: ValueError: no memory"


def test_a_batch_that_cannot_be_shared_is_a_mistake(group: list[Found]) -> None:
    for member in group:
        assert member["errors"]["batch_size"] == (
            f"batch_size=61 cannot be shared by {len(group)} processes: it must be a multiple of "
            f"{len(group)}"
        )


def test_a_batchnorm_of_ones_own_is_a_mistake(group: list[Found]) -> None:
    assert all("0 is a Odd" in member["errors"]["odd"] for member in group)


def test_what_would_drop_or_mix_otherwise_is_a_mistake(group: list[Found]) -> None:
    for member in group:
        assert "0 is a Dropout2d, which would drop the same" in member["errors"]["dropout"]
        assert f"each of {len(group)} processes has 15 of batch_size" in member["errors"]["mixup"]


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_batchnorm(norm: str) -> None:
    build, shape = NORMS[norm]
    module = build().double()
    sequence = nn.Sequential(copy.deepcopy(module))
    make_global(sequence, ALONE)
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(sequence(x), module(x))
    assert torch.autograd.gradcheck(sequence, x)
