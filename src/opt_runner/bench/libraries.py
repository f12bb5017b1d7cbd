"""The orthogonal parametrizations of PyTorch and geotorch."""

from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def torch_layer(R: Tensor, orthogonal_map: str) -> nn.Linear:
    """A layer whose weight is Q(R), d x d; it trains `layer.parametrizations.weight.original`.

    Without trivialization, as it then starts from R itself and saves a product with its base.
    """
    layer = _square(R)
    parametrizations.orthogonal(layer, "weight", orthogonal_map, use_trivialization=False)
    return layer


def geotorch_layer(R: Tensor, triv: str) -> nn.Linear:
    """The same by geotorch, which must be installed; its weight is base @ Q(R)."""
    layer = _square(R)
    import_module("geotorch").orthogonal(layer, "weight", triv)
    with torch.no_grad():
        layer.get_parameter("parametrizations.weight.original").copy_(R)
    return layer


def has_geotorch() -> bool:
    return find_spec("geotorch") is not None


def _square(R: Tensor) -> nn.Linear:
    layer = nn.Linear(len(R), len(R), bias=False, device=R.device)
    with torch.no_grad():
        layer.weight.copy_(R)
    return layer
