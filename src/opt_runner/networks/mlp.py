"""A multilayer perceptron on flattened images."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from opt_runner.networks.shared import Epsilon, Momentum, Norm, Widths, gaussian_


class MLP(nn.Module):
    """Hidden linear layers with BatchNorm and ReLU, then a classifier without bias.

    Input (batch, in_channels, height, width); output (batch, num_classes).
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        widths: Widths = (256, 256),
        bn_momentum: Momentum = 0.001,
        bn_eps: Epsilon = 1e-3,
    ) -> None:
        super().__init__()
        height, width = image_size
        sizes = [in_channels * height * width, *widths]
        norm = partial(nn.BatchNorm1d, eps=bn_eps, momentum=bn_momentum)
        self.features = nn.Sequential(nn.Flatten(), *perceptron(sizes, norm))
        self.classifier = nn.Linear(sizes[-1], num_classes, bias=False)
        gaussian_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def perceptron(sizes: Sequence[int], norm: Norm) -> Iterator[nn.Module]:
    """Yield linear layers of these sizes, without biases, each with its norm and ReLU."""
    for fan_in, fan_out in pairwise(sizes):
        yield from (nn.Linear(fan_in, fan_out, bias=False), norm(fan_out), nn.ReLU())
