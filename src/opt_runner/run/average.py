"""The moving average of a network's weights, which is tested beside the network itself."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from opt_runner.opt import OPT, merge


class Average:
    """The exponential moving average of V, of all else that trains and of BatchNorm's statistics.

    After step t = 1, 2, ...: a <- m a + (1 - m) V, with m = min(decay, (1 + t) / (10 + t)): the
    start of a training must not weigh as much as its end. Source: TensorFlow's
    ExponentialMovingAverage with `num_updates`.
    """

    def __init__(self, opt: OPT, decay: float) -> None:
        self.opt = opt
        self.decay = decay
        self.tensors = {name: value.clone() for name, value in self._now().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        now = self._now()
        torch._foreach_lerp_([*self.tensors.values()], [now[name] for name in self.tensors], share)

    @torch.no_grad()
    def network(self) -> nn.Module:
        """Return a plain copy of the network with the averages."""
        plain = merge(self.opt)
        named = (plain.named_parameters(remove_duplicate=False), plain.named_buffers())
        tensors = dict(chain(*named))
        for name, average in self.tensors.items():
            tensors[name].copy_(average)
        return plain

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, own in self.tensors.items():
            own.copy_(tensors[name])

    @torch.no_grad()
    def _now(self) -> dict[str, Tensor]:
        network = self.opt.network
        trains = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
        statistics = {
            f"{name}.{key}": value
            for name, module in network.named_modules()
            if isinstance(module, _NormBase)
            for key, value in module.named_buffers()
            if value.is_floating_point()
        }
        return trains | statistics | self.opt.effective_weights()
