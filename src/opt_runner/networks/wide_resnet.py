"""Wide residual networks."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from opt_runner.errors import UserError
from opt_runner.networks.resnet import stages
from opt_runner.networks.shared import Depth, Dropped, Epsilon, Momentum, Norm, Positive, gaussian_


class WideResNet(nn.Module):
    """WRN-depth-factor: residual units that normalise first.

    Stages have 16, 32 and 64 times `factor` channels; depth = 6n + 4 for n units a stage.

    Input (batch, in_channels, height, width) of any size; output (batch, num_classes).
    Source: Zagoruyko and Komodakis, "Wide Residual Networks" (BMVC 2016).
    Raises UserError for another depth.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depth: Depth = 16,
        factor: Positive = 4,
        dropout: Dropped = 0.0,
        bn_momentum: Momentum = 0.1,
        bn_eps: Epsilon = 1e-5,
    ) -> None:
        super().__init__()
        units, rest = divmod(depth - 4, 6)
        if rest or units < 1:
            raise UserError(f"model.depth={depth} must be 6 n + 4: 10, 16, 22, 28, 34, 40, ...")
        channels = 16
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        widths = [16 * factor * 2**number for number in range(3)]
        norm = partial(nn.BatchNorm2d, eps=bn_eps, momentum=bn_momentum)
        unit = partial(WideUnit, dropout=dropout, norm=norm)
        self.stages = stages(unit, channels, widths, units)
        self.bn = norm(widths[-1])
        self.classifier = nn.Linear(widths[-1], num_classes)
        gaussian_(self)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.stages(self.stem(x))))
        return self.classifier(y.mean((2, 3)))


class WideUnit(nn.Module):
    """A residual unit: shortcut + conv2(dropout(relu(bn2(conv1(y))))) with y = relu(bn1(x)).

    The shortcut is x, and a 1x1 convolution of y where the shape changes.
    """

    def __init__(self, channels: int, width: int, stride: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.bn1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride > 1 or width != channels:
            self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return shortcut + self.conv2(self.dropout(F.relu(self.bn2(self.conv1(y)))))
