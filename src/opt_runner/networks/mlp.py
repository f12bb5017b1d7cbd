"""A multilayer perceptron on flattened images."""

from itertools import pairwise

from torch import Tensor, nn

from opt_runner.networks.initialise import gaussian_
from opt_runner.networks.options import Epsilon, Momentum, Widths


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
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(sizes):
            layers += [
                nn.Linear(fan_in, fan_out, bias=False),
                nn.BatchNorm1d(fan_out, eps=bn_eps, momentum=bn_momentum),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(sizes[-1], num_classes, bias=False)
        gaussian_(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits
