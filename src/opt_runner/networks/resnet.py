"""Residual networks for small images: ResNet-20 and ResNet-32."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from opt_runner.errors import UserError
from opt_runner.networks.shared import Depth, Epsilon, Momentum, Norm, Widths, gaussian_

Shortcut = Literal["identity", "projection"]


class ResNet(nn.Module):
    """He et al.'s network for CIFAR: 6n + 2 weighted layers for n units a stage.

    A 3x3 convolution, then a stage for each width, the first unit of all stages but the first with
    stride 2; the mean over pixels; a linear classifier. A unit is (3x3 convolution, BatchNorm)
    twice, with a ReLU between them and one after its shortcut is added.

    shortcut: where a unit changes the shape: `identity` takes every second pixel and fills new
    channels with zeros; `projection` is a 1x1 convolution with BatchNorm.
    Input (batch, in_channels, height, width) of any size; output (batch, num_classes).
    Source: He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), section 4.2; the
    authors of OPT have widths 96, 192 and 384 with projections in their code of other papers.
    Raises UserError for an identity to fewer channels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        units: Depth = 3,
        widths: Widths = (16, 32, 64),
        shortcut: Shortcut = "identity",
        bn_momentum: Momentum = 0.1,
        bn_eps: Epsilon = 1e-5,
    ) -> None:
        super().__init__()
        if shortcut == "identity" and list(widths) != sorted(widths):
            raise UserError(
                f"model.widths={list(widths)} must not descend with model.shortcut=identity; use "
                "model.shortcut=projection"
            )
        norm = partial(nn.BatchNorm2d, eps=bn_eps, momentum=bn_momentum)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
            norm(widths[0]),
            nn.ReLU(),
        )
        unit = partial(Unit, shortcut=shortcut, norm=norm)
        self.stages = stages(unit, widths[0], widths, units)
        self.classifier = nn.Linear(widths[-1], num_classes)
        gaussian_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.stages(self.stem(x)).mean((2, 3)))


class Unit(nn.Module):
    """A residual unit: relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))."""

    def __init__(
        self, channels: int, width: int, stride: int, shortcut: Shortcut, norm: Norm
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or width != channels:
            if shortcut == "identity":
                self.shortcut = WiderIdentity(stride, width - channels)
            else:
                convolution = nn.Conv2d(channels, width, 1, stride, bias=False)
                self.shortcut = nn.Sequential(convolution, norm(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + y)


class WiderIdentity(nn.Module):
    """A shortcut: every stride-th pixel, and `more` channels of zeros after those of x."""

    def __init__(self, stride: int, more: int) -> None:
        super().__init__()
        self.stride = stride
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


def stages(
    unit: Callable[[int, int, int], nn.Module], channels: int, widths: Sequence[int], units: int
) -> nn.Sequential:
    """Return a stage for each width; the first unit of every later stage halves the image.

    unit: makes one of its channels, its width and its stride. channels: of what comes in.
    """
    found = []
    for number, width in enumerate(widths):
        stage = []
        for place in range(units):
            stage.append(unit(channels, width, 2 if number and not place else 1))
            channels = width
        found.append(nn.Sequential(*stage))
    return nn.Sequential(*found)
