"""Rotations with a handwritten gradient: the layers of all sizes in one node of autograd.

Note [LU one at a time on the CPU]: batched LU on the CPU (torch 2.13 and 2.15, pytorch issue
142815) silently returns garbage with two threads or more from about 160 x 160 up. A stack is
therefore taken apart into its matrices on the CPU, and left whole on CUDA, where one kernel per
matrix would dominate.

Note [Multiples of 512]: columns 2 KiB apart share so few lines of a CPU's cache that LAPACK takes
1.4 to 1.7 times as long (QR, LU and SVD of 1024 x 1024). Such an R is replaced by
diag(I, R) with a few more rows: Q(diag(I, R)) = diag(I, Q(R)) for every method here. The rows are
even in number and come first for the sake of `hr`, whose det Q depends on d.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from opt_runner.errors import UserError
from opt_runner.methods.base import method_options
from opt_runner.methods.kernels.threads import each
from opt_runner.methods.rotation import SquareRotation

# What a gradient needs of its forward pass.
Saved = tuple[Tensor, ...]
# V and that. An alias: torch.compile stops where a function inside another spells it out.
Applied = tuple[Tensor, Saved]


@method_options
class FusedRotation(SquareRotation):
    """A rotation given by `apply` and `gradient`.

    Both get one matrix or a whole stack, `(..., d, d)`: see Note [LU one at a time on the CPU].
    They run in threads, on the CPU, and must not change what they are given.
    """

    @staticmethod
    def apply(R: Tensor, W: Tensor) -> tuple[Tensor, Saved]:
        """Return V = Q(R) W, and the values that `gradient` needs."""
        raise NotImplementedError

    @staticmethod
    def gradient(saved: Saved, G: Tensor) -> Tensor:
        """Return dL/dR from G = dL/dV."""
        raise NotImplementedError

    def plain(self, R: Tensor, W: Tensor) -> Tensor:
        """Return V by operations of torch alone, for torch.func and derivatives of the gradient.

        Raises UserError where a method has no such way.
        """
        raise UserError(
            f"{type(self).__name__} has a gradient of its own, which has no derivative and which "
            "torch.func cannot go through: use loss.backward(), or another method, such as cayley"
        )

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return self._fused([R], [W])[0]

    def rotate_all(self, Rs: Sequence[Tensor], Ws: Sequence[Tensor]) -> list[Tensor]:
        if type(self).rotate is not FusedRotation.rotate:  # a user's, derived from one of these
            return super().rotate_all(Rs, Ws)
        return self._fused(Rs, Ws)

    def _fused(self, Rs: Sequence[Tensor], Ws: Sequence[Tensor]) -> list[Tensor]:
        if transformed():
            return [self.plain(R, W) for R, W in zip(Rs, Ws, strict=True)]
        # Q itself where it is smaller than W, and where W trains: the node has no gradient for W.
        acted_on = [
            _identities(W) if W.shape[-1] > W.shape[-2] or W.requires_grad else W for W in Ws
        ]
        outputs: tuple[Tensor, ...] = _Rotate.apply(
            self.apply, self.gradient, self.plain, *Rs, *acted_on
        )
        return [V if X is W else V @ W for V, X, W in zip(outputs, acted_on, Ws, strict=True)]


def transformed() -> bool:
    """Return True within the transformations of torch.func, in which values cannot be looked at.

    Return False under torch.compile, which cannot trace the question.
    """
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def eager() -> bool:
    """Return True where values can be looked at: neither in torch.compile nor in torch.func."""
    return not torch.compiler.is_compiling() and not transformed()


def keeps_graph() -> bool:
    """Return True in a backward pass whose gradients get a graph: create_graph=True."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _identities(W: Tensor) -> Tensor:
    """Return I (d, d) for each layer of the stack W (k, d, n)."""
    d = W.shape[-2]
    return torch.eye(d, dtype=W.dtype, device=W.device).expand(len(W), d, d)


class _Rotate(torch.autograd.Function):
    """V of each stack R (k, d, d) and W (k, d, n): all stacks in one node, to share threads."""

    @staticmethod
    def forward(
        ctx: Any,
        apply: Callable[[Tensor, Tensor], tuple[Tensor, Saved]],
        gradient: Callable[[Saved, Tensor], Tensor],
        plain: Callable[[Tensor, Tensor], Tensor],
        *stacks: Tensor,
    ) -> tuple[Tensor, ...]:
        Rs, Ws = stacks[: len(stacks) // 2], stacks[len(stacks) // 2 :]

        def run(R: Tensor, W: Tensor) -> Applied:
            extra = _extra_rows(W)
            if not extra:
                return apply(R, W)
            V, saved = apply(_bordered(R, extra), F.pad(W, (0, 0, extra, 0)))
            return V[extra:], saved

        results = each(run, _parts(Rs), _parts(Ws))
        saved = [tensors for _, tensors in results]
        ctx.save_for_backward(*stacks, *(tensor for tensors in saved for tensor in tensors))
        ctx.count = len(saved[0])
        ctx.gradient, ctx.plain = gradient, plain
        return _joined([V for V, _ in results], [len(R) for R in Rs])

    @staticmethod
    def backward(ctx: Any, *Gs: Tensor) -> tuple[Tensor | None, ...]:
        k, tensors = len(Gs), ctx.saved_tensors  # read once: a checkpoint recomputes them
        Rs, Ws, tensors = tensors[:k], tensors[k : 2 * k], tensors[2 * k :]
        none = [None] * k
        if keeps_graph():
            return None, None, None, *_differentiable(ctx.plain, Rs, Ws, Gs), *none
        count = ctx.count
        saved = [tensors[start : start + count] for start in range(0, len(tensors), count)]
        dRs = [G.new_empty(*G.shape[:-1], G.shape[-2]) for G in Gs]

        def write(saved: Saved, G: Tensor, dR: Tensor) -> None:
            extra = _extra_rows(G)
            if extra:
                dR.copy_(ctx.gradient(saved, F.pad(G, (0, 0, extra, 0)))[extra:, extra:])
            else:
                dR.copy_(ctx.gradient(saved, G))

        each(write, saved, _parts(Gs), _parts(dRs))
        return None, None, None, *dRs, *none


def _differentiable(
    plain: Callable[[Tensor, Tensor], Tensor],
    Rs: Sequence[Tensor],
    Ws: Sequence[Tensor],
    Gs: Sequence[Tensor],
) -> list[Tensor | None]:
    """Return dL/dR of each stack with a graph, for its own derivatives; None where R is frozen."""
    with torch.autocast(Rs[0].device.type, enabled=False):
        return [
            torch.autograd.grad(plain(R, W), R, G, create_graph=True)[0]
            if R.requires_grad
            else None
            for R, W, G in zip(Rs, Ws, Gs, strict=True)
        ]


def _extra_rows(W: Tensor) -> int:
    """Return the number of bordering rows, see Note [Multiples of 512]."""
    return 8 if W.device.type == "cpu" and W.shape[-2] % 512 == 0 else 0


def _bordered(R: Tensor, extra: int) -> Tensor:
    """Return diag(I, R)."""
    bordered = F.pad(R, (extra, 0, extra, 0))
    bordered.diagonal()[:extra] = 1
    return bordered


def _parts(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Return the matrices of all stacks on the CPU, else the stacks."""
    if stacks[0].device.type != "cpu":
        return list(stacks)
    return [matrix for stack in stacks for matrix in stack]


def _joined(parts: list[Tensor], lengths: list[int]) -> tuple[Tensor, ...]:
    """Return the stacks of such lengths again."""
    if parts[0].device.type != "cpu":
        return tuple(parts)
    matrices = iter(parts)
    return tuple(torch.stack([next(matrices) for _ in range(length)]) for length in lengths)
