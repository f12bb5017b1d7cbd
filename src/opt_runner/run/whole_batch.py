"""BatchNorm and dropout of the whole batch when several processes share it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from opt_runner.errors import UserError
from opt_runner.run.processes import Processes


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm of 1, 2 or 3 dimensions whose mean and variance are those of the whole batch.

    The parts of all processes have one size. torch.nn.SyncBatchNorm does the same, but only on GPUs
    (up to version 2.14). `make_global` converts a BatchNorm.
    """

    processes: Processes

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # the BatchNorm before the conversion has checked the shapes

    def forward(self, input: Tensor) -> Tensor:
        """Return (x - m) / sqrt(v + eps) g + b for x (B, C, ...)."""
        if not self.training:
            return super().forward(input)
        dims, shape = [0, *range(2, input.ndim)], [1, -1, *[1] * (input.ndim - 2)]
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        mean = self._mean(x.mean(dims))
        centred = x - mean.view(shape)
        # A mean of squares: torch.var_mean takes ten times as long on a CPU.
        variance = self._mean(centred.square().mean(dims))
        self._keep_statistics(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = torch.zeros_like(scale) if self.bias is None else self.bias
        return torch.addcmul(shift.view(shape), centred, scale.view(shape)).to(input.dtype)

    def _mean(self, part: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(part, self.processes)
        return total / self.processes.count

    def _keep_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the moving averages. count: values per channel in this process's part."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # the mean over all steps
            share = 1 / float(self.num_batches_tracked)
        count *= self.processes.count
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), share)


class GlobalDropout(nn.Dropout):
    """Dropout that draws for the whole batch and takes its part: the masks of one process.

    All processes have one state of random numbers, which would give all parts the same masks.
    """

    processes: Processes

    def forward(self, input: Tensor) -> Tensor:
        """Return x m / (1 - p) for x (B, ...), m = 0 with the probability p, else 1."""
        if not self.training:
            return super().forward(input)
        whole = torch.cat([input.detach()] * self.processes.count)  # as one process has it
        factors = super().forward(torch.ones_like(whole))
        return input * factors[self.processes.part(len(whole))]


_GLOBAL: dict[type[nn.Module], type[nn.Module]] = {
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), GlobalBatchNorm),
    nn.Dropout: GlobalDropout,
}


def make_global(network: nn.Module, processes: Processes) -> None:
    """Turn every BatchNorm and Dropout of the network into one of the whole batch, in place.

    Parameters, buffers and their names stay. Raises UserError for another class of them.
    """
    for name, module in network.named_modules():
        if made := _GLOBAL.get(type(module)):
            module.__class__ = made
            module.processes = processes
        elif isinstance(module, _BatchNorm) and not isinstance(
            module, nn.SyncBatchNorm | GlobalBatchNorm
        ):
            raise UserError(
                f"model: {name} is a {type(module).__name__}, whose statistics would be those of "
                "one process's part of the batch; several processes can train BatchNorm1d, "
                "BatchNorm2d, BatchNorm3d and SyncBatchNorm"
            )
        elif isinstance(module, _DropoutNd) and not isinstance(module, GlobalDropout) and module.p:
            raise UserError(
                f"model: {name} is a {type(module).__name__}, which would drop the same of each "
                "process's part of the batch; several processes can train Dropout"
            )


class _Sum(torch.autograd.Function):
    """A sum over processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        total = part.clone()
        processes.sum_(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradient.contiguous(), ctx.processes), None
