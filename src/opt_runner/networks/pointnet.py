"""A network that classifies point clouds."""

from functools import partial

from torch import Tensor, nn

from opt_runner.networks.mlp import perceptron
from opt_runner.networks.shared import Dropped, Epsilon, Momentum, Widths, gaussian_


class PointNet(nn.Module):
    """A perceptron on every point, the maximum over the points, and a perceptron on that.

    The basic form, without the networks that turn the input and the features. Layers have BatchNorm
    and ReLU, and no bias but in the classifier. Source: Qi et al., "PointNet: Deep Learning on
    Point Sets for 3D Classification and Segmentation" (CVPR 2017), who have widths=(64, 64, 64,
    128, 1024) and head_widths=(512, 256).

    Input (batch, points, point_dims); output (batch, num_classes).

    dropout: the share of the classifier's inputs that are dropped.
    """

    def __init__(
        self,
        point_dims: int,
        num_classes: int,
        widths: Widths = (64, 64, 128, 256),
        head_widths: Widths = (128, 64),
        dropout: Dropped = 0.3,
        bn_momentum: Momentum = 0.001,
        bn_eps: Epsilon = 1e-3,
    ) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm1d, eps=bn_eps, momentum=bn_momentum)
        self.of_point = nn.Sequential(*perceptron((point_dims, *widths), norm))
        self.of_cloud = nn.Sequential(*perceptron((widths[-1], *head_widths), norm))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(head_widths[-1], num_classes)
        gaussian_(self)

    def forward(self, x: Tensor) -> Tensor:
        of_points = self.of_point(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.classifier(self.dropout(self.of_cloud(of_points.amax(1))))
