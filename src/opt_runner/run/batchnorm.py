"""BatchNorm with the statistics of the whole batch where several processes share it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from opt_runner.errors import UserError
from opt_runner.run.processes import Processes


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm of 1, 2 or 3 dimensions over all processes' parts of a batch, of equal sizes.

    torch.nn.SyncBatchNorm does the same on GPUs alone. Made by `make_global`.
    """

    processes: Processes

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # as it was checked in one process, when the shapes were tried

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        output: Tensor
        output, mean, variance = _Normalise.apply(
            input, self.weight, self.bias, self.eps, self.processes
        )
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = self.momentum
            if share is None:  # a plain mean over all steps
                share = 1 / float(self.num_batches_tracked)
            count = input.numel() // input.shape[1] * self.processes.count
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), share)
        return output


def make_global(network: nn.Module, processes: Processes) -> None:
    """Turn every BatchNorm of the network into a GlobalBatchNorm, where it stands.

    Parameters, buffers and their names stay. Raises UserError for a BatchNorm of another class.
    """
    for name, module in network.named_modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = GlobalBatchNorm
            module.processes = processes
        elif isinstance(module, _BatchNorm) and not isinstance(
            module, nn.SyncBatchNorm | GlobalBatchNorm
        ):
            raise UserError(
                f"model: {name} is a {type(module).__name__}, whose statistics would be those of "
                "one process's part of the batch; several processes can train BatchNorm1d, "
                "BatchNorm2d, BatchNorm3d and SyncBatchNorm"
            )


class _Normalise(torch.autograd.Function):
    """y = g (x - m) s + b for x (B, C, ...), with m and v, the mean and the biased variance over
    all but the channels and over all processes, and s = 1 / sqrt(v + eps). Returns y, m, v.

    With G = dL/dy, N the number of values of a channel and x^ = (x - m) s:
    dL/dx = g s (G - sum(G) / N - x^ sum(G x^) / N), the sums over all processes.
    dL/dg and dL/db are this process's: they are averaged as all gradients are.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        processes: Processes,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dims, shape = _around_channels(x)
        given, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        own_mean = x.mean(dims)
        centred = x - own_mean.view(shape)
        # Sums of products: torch.var_mean takes ten times as long on a CPU.
        own_variance = (centred * centred).mean(dims)
        means, variances = processes.each(torch.stack([own_mean, own_variance])).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        s = torch.rsqrt(variance + eps)
        scale = s if weight is None else weight * s
        offset = own_mean - mean
        shift = offset * scale if bias is None else bias + offset * scale
        ctx.save_for_backward(centred, offset, s, scale)
        ctx.processes, ctx.given = processes, given
        ctx.has_weight, ctx.has_bias = weight is not None, bias is not None
        ctx.mark_non_differentiable(mean, variance)
        y = torch.addcmul(shift.view(shape), centred, scale.view(shape))
        return y.to(given), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        centred, offset, s, scale = ctx.saved_tensors
        dims, shape = _around_channels(G)
        G = G.to(centred.dtype)
        sum_G = G.sum(dims)
        sum_Gx = ((G * centred).sum(dims) + offset * sum_G) * s
        sums = torch.stack([sum_G, sum_Gx])
        ctx.processes.sum_(sums)
        mean_G, mean_Gx = sums / (G.numel() // G.shape[1] * ctx.processes.count)
        # dx = scale G + slope centred + level
        slope = -scale * s * mean_Gx
        level = slope * offset - scale * mean_G
        dx = torch.addcmul(level.view(shape), centred, slope.view(shape))
        dx.addcmul_(G, scale.view(shape))
        of_weight = sum_Gx if ctx.has_weight else None
        of_bias = sum_G if ctx.has_bias else None
        return dx.to(ctx.given), of_weight, of_bias, None, None


def _around_channels(x: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions of x (B, C, ...) but the channels, and the shape of one value a channel."""
    return [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
