"""The rotations of a network shared out over the processes that train it.

Every process computes V of its own matrices, all get all V; dL/dV, summed over the processes, comes
back to the owner, who alone has dL/dR. What travels is V and dL/dV, d x n each, in place of dL/dR,
d x d. R and its momentum are up to date with their owner alone: `gather` brings them together.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from opt_runner.methods.base import Tensors
from opt_runner.methods.kernels.fused import FusedRotation
from opt_runner.methods.stack import Stack
from opt_runner.opt import OPT
from opt_runner.run.processes import Processes


class Shares:
    """Which matrices of which stack are this process's own.

    The largest are given first, each to who has least to do, a matrix being d^3 of work.
    """

    def __init__(self, opt: OPT, processes: Processes) -> None:
        self.processes = processes
        self.method = opt.method
        opt.shared = self.weights
        self.parameters = [cast(Stack, stack).trained["R"] for stack in opt.stacks]
        load = [0] * processes.count
        own: list[list[int]] = [[] for _ in self.parameters]
        every = [(len(R[0]), i, k) for i, R in enumerate(self.parameters) for k in range(len(R))]
        for d, i, k in sorted(every, key=lambda matrix: -matrix[0]):
            owner = load.index(min(load))
            load[owner] += d**3
            if owner == processes.rank:
                own[i].append(k)
        device = self.parameters[0].device
        self.own = [torch.tensor(sorted(ks), dtype=torch.int64, device=device) for ks in own]

    def weights(self, Ws: Sequence[Tensor], tensors: Sequence[Tensors]) -> list[Tensor]:
        """What `method.weights` gives, (k, d, n) for each stack; all processes call it."""
        mine = [i for i, own in enumerate(self.own) if len(own)]
        own_Ws = [Ws[i].index_select(0, self.own[i]) for i in mine]
        own_tensors = [
            {name: tensor.index_select(0, self.own[i]) for name, tensor in tensors[i].items()}
            for i in mine
        ]
        try:
            own_Vs = self.method.weights(own_Ws, own_tensors) if mine else []
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            # Of a matrix that holds NaN: as the loss is NaN then, all processes see it.
            own_Vs = [torch.full_like(W, torch.nan) for W in own_Ws]
        parts: list[Tensor | None] = [None] * len(Ws)
        for i, V in zip(mine, own_Vs, strict=True):
            parts[i] = V
        # An R, whoever owns it, so that the way back leads through all processes in any case.
        Vs: tuple[Tensor, ...] = _Exchange.apply(
            self, [W.shape for W in Ws], self.parameters[0], *parts
        )
        return list(Vs)

    def not_shared(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Those whose gradients differ between processes and are to be averaged. Every R has one
        from here on: a stack of which nothing is this process's own has none of itself."""
        for R in self.parameters:
            if R.grad is None:
                R.grad = torch.zeros_like(R)
        shared = {id(R) for R in self.parameters}
        return [parameter for parameter in parameters if id(parameter) not in shared]

    @torch.no_grad()
    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """Every R and its optimizer's state as the owners have them; all processes call it."""
        for R, own in zip(self.parameters, self.own, strict=True):
            state = [t for t in optimizer.state[R].values() if t.shape == R.shape]
            for tensor in [R, *state]:
                owned = torch.zeros_like(tensor).index_copy_(0, own, tensor.index_select(0, own))
                self.processes.sum_(owned)
                tensor.copy_(owned)


def shareable(opt: OPT) -> bool:
    """Whether there is one method, for which R of one matrix is of no concern to anything but V of
    that matrix."""
    method = opt.method
    one = all(cast(Stack, stack).method is method for stack in opt.stacks)
    alone = not method.has_penalty and not method.trains_weight
    return one and alone and isinstance(method, FusedRotation)


class _Exchange(torch.autograd.Function):
    """All V of all stacks from each process's own; the way back means dL/dV over processes."""

    @staticmethod
    def forward(
        ctx: Any, shares: Shares, shapes: Sequence[torch.Size], R: Tensor, *parts: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.shares = shares
        Vs = [R.new_zeros(shape) for shape in shapes]
        for V, own, part in zip(Vs, shares.own, parts, strict=True):
            if part is not None:
                V.index_copy_(0, own, part)
        return _summed(Vs, shares.processes)

    @staticmethod
    def backward(ctx: Any, *Gs: Tensor) -> tuple[Tensor | None, ...]:
        shares = ctx.shares
        Gs = _summed(Gs, shares.processes)
        mine = [
            G.index_select(0, own) / shares.processes.count if len(own) else None
            for G, own in zip(Gs, shares.own, strict=True)
        ]
        return None, None, None, *mine


def _summed(stacks: Sequence[Tensor], processes: Processes) -> tuple[Tensor, ...]:
    """In one all-reduce."""
    flat = torch.cat([stack.flatten() for stack in stacks])
    processes.sum_(flat)
    parts = torch.split(flat, [stack.numel() for stack in stacks])
    return tuple(part.view(stack.shape) for part, stack in zip(parts, stacks, strict=True))
