"""torchvision's ResNet-18, for images of 32 pixels or of 224."""

from functools import partial
from typing import Literal

from torch import nn

from opt_runner.networks.shared import Epsilon, Momentum, gaussian_


def resnet18(
    in_channels: int,
    num_classes: int,
    stem: Literal["cifar", "imagenet"] = "cifar",
    bn_momentum: Momentum = 0.1,
    bn_eps: Epsilon = 1e-5,
) -> nn.Module:
    """Return a ResNet-18 of widths 64 to 512, every W drawn from N(0, 2/d).

    stem: `imagenet` is He et al.'s, a 7x7 convolution and a pool, which make the image 4 times
    smaller each way; `cifar` has a 3x3 convolution alone, which keeps its size.
    Input (batch, in_channels, height, width) of any size; output (batch, num_classes).
    """
    from torchvision import models  # slow to import, and not needed for other networks

    norm = partial(nn.BatchNorm2d, momentum=bn_momentum, eps=bn_eps)
    network: nn.Module = models.resnet18(num_classes=num_classes, norm_layer=norm)
    if stem == "cifar":
        network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    else:
        network.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    gaussian_(network)
    return network
