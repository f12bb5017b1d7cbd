"""Networks that the command offers. They are ordinary modules and know nothing of OPT."""

from opt_runner.networks.by_name import from_timm, from_torchvision
from opt_runner.networks.gcn import GCN
from opt_runner.networks.gpt import GPT
from opt_runner.networks.mlp import MLP
from opt_runner.networks.plain_cnn import PlainCNN
from opt_runner.networks.pointnet import PointNet
from opt_runner.networks.resnet import ResNet
from opt_runner.networks.resnet18 import resnet18
from opt_runner.networks.vit import vit
from opt_runner.networks.wide_resnet import WideResNet

__all__ = [
    "GCN",
    "GPT",
    "MLP",
    "PlainCNN",
    "PointNet",
    "ResNet",
    "WideResNet",
    "from_timm",
    "from_torchvision",
    "resnet18",
    "vit",
]
