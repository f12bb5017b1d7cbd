"""The reference's plain convolutional networks, CNN-6 and CNN-9."""

from torch import Tensor, nn

from opt_runner.errors import UserError
from opt_runner.networks.shared import Depth, Epsilon, Momentum, Positive, Widths, gaussian_


class PlainCNN(nn.Module):
    """Blocks of 3x3 convolutions, each block halving the image, then a valid convolution `fc`.

    A block is `convs` times (3x3 convolution, BatchNorm, ReLU), then a 2x2 max pool. `fc` takes
    what is left of the image (4 x 4 for 32 x 32) to one pixel, without BatchNorm or ReLU; the
    classifier has no bias. CNN-6 has 3 x 2 convolutions, CNN-9 has 3 x 3.

    Input (batch, in_channels, height, width); output (batch, num_classes).
    Raises UserError where the pools leave no pixel.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        widths: Widths = (64, 64, 64),
        convs: Depth = 2,
        fc_width: Positive = 64,
        bn_momentum: Momentum = 0.001,
        bn_eps: Epsilon = 1e-3,
    ) -> None:
        super().__init__()
        left = tuple(side // 2 ** len(widths) for side in image_size)
        if min(left) < 1:
            smallest = 2 ** len(widths)
            raise UserError(
                f"images of {image_size[0]} x {image_size[1]} are too small for {len(widths)} "
                f"halvings: they must be at least {smallest} x {smallest}, or use model=mlp"
            )
        layers: list[nn.Module] = []
        channels = in_channels
        for width in widths:
            for _ in range(convs):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width, eps=bn_eps, momentum=bn_momentum),
                    nn.ReLU(),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Conv2d(channels, fc_width, left, bias=False)
        self.classifier = nn.Linear(fc_width, num_classes, bias=False)
        gaussian_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.fc(self.features(x)).flatten(1))
