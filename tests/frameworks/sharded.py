"""A process of `test_sharded`: `python -m tests.frameworks.sharded RANK PORT FOLDER`.

It prints a line of JSON for each thing tried: [name, value].
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from opt_runner import OPT, merge
from opt_runner.errors import UserError
from tests.frameworks.test_sharded import METHODS

ROUNDS = {"sopt": {"round_steps": 2}, "poet": {"round_steps": 2}}
BATCHES = torch.randn(6, 8, 6, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    """Three layers of one size, as two processes cannot share them evenly, and others."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(8, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


class Recomputed(nn.Sequential):
    """Its activations are computed again in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(super().forward, x, use_reentrant=False)
        return y


def make(method: str, kind: type[nn.Sequential] = nn.Sequential) -> OPT:
    return OPT(kind(*network()), method, **ROUNDS.get(method, {}))


def train(opt: OPT, optimizer: Any, batches: Tensor, part: slice = slice(None)) -> None:
    for x in batches:
        (opt(x[part]).square().mean() + opt.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()


def difference(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference of a parameter, as a share of its largest entry."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((p - q).abs().max() / p.abs().max()) for p, q in pairs)


class Process:
    """What one of two processes tries, with `mesh` over both."""

    def __init__(self, rank: int, folder: Path) -> None:
        self.folder = folder
        self.rank = rank
        self.mine = slice(rank, None, 2)
        self.mesh = init_device_mesh("cpu", (2,))

    def sharded(
        self, method: str, kind: type[nn.Sequential] = nn.Sequential, **options: Any
    ) -> tuple[OPT, Any]:
        opt = make(method, kind)
        fully_shard(opt, mesh=self.mesh, **options)
        return opt, opt.optimizer(lr=0.05)

    def equal(
        self, method: str, kind: type[nn.Sequential] = nn.Sequential, **options: Any
    ) -> float:
        alone = make(method, kind)
        train(alone, alone.optimizer(lr=0.05), BATCHES[:5])
        opt, optimizer = self.sharded(method, kind, **options)
        train(opt, optimizer, BATCHES[:5], self.mine)
        return difference(merge(alone), merge(opt))

    def recomputed(self, method: str) -> float:
        """Train as `equal` does, with W sharded again between forward and backward pass."""
        return self.equal(method, Recomputed, reshard_after_forward=True)

    def merged(self, method: str) -> float:
        """Return how far the merged network is from OPT, with the head in parts."""
        opt = make(method)
        parallelize_module(
            opt.network, self.mesh, {"8": ColwiseParallel(output_layouts=Replicate())}
        )
        train(opt, opt.optimizer(lr=0.05), BATCHES[:2])
        return float((merge(opt)(BATCHES[0]) - opt(BATCHES[0])).abs().max())

    def half(self, method: str) -> float:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        opt, optimizer = self.sharded(method, mp_policy=policy)
        train(opt, optimizer, BATCHES[:3], self.mine)
        assert all(p.dtype == torch.float32 for p in opt.parameters())
        return opt.orthogonality_error() or 0.0

    def resumed(self, method: str) -> float:
        """Save after four steps, at a round's end; go on in a new OPT, and in the old one."""
        opt, optimizer = self.sharded(method)
        train(opt, optimizer, BATCHES[:4], self.mine)
        model, optim = get_state_dict(opt, optimizer)
        dcp.save({"model": model, "optim": optim}, checkpoint_id=self.folder / method)
        train(opt, optimizer, BATCHES[4:], self.mine)

        again, optimizer = self.sharded(method)
        model, optim = get_state_dict(again, optimizer)
        dcp.load({"model": model, "optim": optim}, checkpoint_id=self.folder / method)
        set_state_dict(again, optimizer, model_state_dict=model, optim_state_dict=optim)
        assert again.steps == 4
        train(again, optimizer, BATCHES[4:], self.mine)
        return difference(merge(opt), merge(again))

    def blocks(self, method: str) -> None:
        opt = make(method)
        for block in opt.network:
            if isinstance(block, nn.Linear):
                fully_shard(block, mesh=self.mesh)
        fully_shard(opt, mesh=self.mesh)
        opt(BATCHES[0])

    def tensor_parallel(self, method: str) -> None:
        opt = make(method)
        parallelize_module(opt.network, self.mesh, {"2": ColwiseParallel()})
        opt(BATCHES[0])

    def fsdp1(self, method: str) -> None:
        opt = make(method)
        cpu = torch.device("cpu")
        FullyShardedDataParallel(opt, use_orig_params=True, device_id=cpu)(BATCHES[0])

    def before(self, method: str) -> None:
        inner = network()
        fully_shard(inner, mesh=self.mesh)
        OPT(inner, method)

    def early_optimizer(self, method: str) -> None:
        opt = make(method)
        optimizer = opt.optimizer(lr=0.05)
        fully_shard(opt, mesh=self.mesh)
        train(opt, optimizer, BATCHES[:1], self.mine)

    def tries(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        for method in METHODS:
            for what in (self.equal, self.recomputed, self.half, self.resumed, self.merged):
                yield f"{what.__name__} {method}", lambda what=what, method=method: what(method)
        refused = (self.blocks, self.tensor_parallel, self.fsdp1, self.before, self.early_optimizer)
        for what in refused:
            yield what.__name__, lambda what=what: what("cayley")


@contextmanager
def group(rank: int, port: int) -> Iterator[None]:
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        yield
    finally:
        dist.destroy_process_group()


def main(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with group(rank, port):
        for name, attempt in Process(rank, folder).tries():
            try:
                found = attempt()
            except UserError as error:  # of all processes, or they would wait for each other
                found = str(error)
            print(json.dumps([name, found]), flush=True)
            dist.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
