"""Classifiers of torchvision and timm by name. Their weights start as in those packages."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from opt_runner.errors import UserError, nearest
from opt_runner.networks.shared import Momentum

WITH_AUXILIARY = ("googlenet", "inception_v3")  # they give several outputs in training
_COLOURS = 3
# Options that load weights. Some versions of timm unpickle any file; and no signature would know.
_LOADING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path")


def from_torchvision(
    arch: str,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    bn_momentum: Momentum | None = None,
    **options: Any,
) -> nn.Module:
    """Return torchvision.models.get_model(arch), as it starts, for these images and classes.

    bn_momentum: of every BatchNorm; None: torchvision's. options: of the model, such as dropout.
    Raises UserError for an unknown name or option, or images that do not suit it.
    """
    _refuse_weights(options)
    from torchvision import models  # slow to import, and not needed for other networks

    known = models.list_models(module=models)
    if arch not in known:
        raise UserError(f"model.arch={arch}: no classifier of torchvision{nearest(arch, known)}")
    if arch.startswith("vit_"):
        height, width = image_size
        if height != width:
            raise UserError(f"model.arch={arch} needs square images, these are {height} x {width}")
        options = {"image_size": height, **options}
    elif arch.startswith("maxvit"):
        options = {"input_size": image_size, **options}
    elif arch in WITH_AUXILIARY:
        options = {"aux_logits": False, "init_weights": True, **options}
    try:
        network: nn.Module = models.get_model(arch, num_classes=num_classes, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"model.arch={arch}: {error}") from error
    set_in_channels(network, in_channels)
    set_bn_momentum(network, bn_momentum)
    return network


def from_timm(
    arch: str,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    bn_momentum: Momentum | None = None,
    **options: Any,
) -> nn.Module:
    """Return timm.create_model(arch), without weights, for these images and classes.

    bn_momentum: of every BatchNorm; None: timm's. options: of the model, such as drop_path_rate.
    Raises UserError without timm, for an unknown name or option, or images that do not suit it.
    """
    _refuse_weights(options)
    try:
        import timm
    except ImportError as error:
        raise UserError("model=timm needs timm: pip install timm") from error
    if not timm.is_model(arch):
        hint = nearest(arch, timm.list_models())
        raise UserError(f"model.arch={arch}: no model of timm{hint}")
    published = timm.get_pretrained_cfg(arch)
    if published is not None and published.fixed_input_size:
        options = {"img_size": image_size, **options}
    try:
        network: nn.Module = timm.create_model(
            arch, num_classes=num_classes, in_chans=in_channels, **options
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"model.arch={arch}: {error}") from error
    set_bn_momentum(network, bn_momentum)
    return network


def _refuse_weights(options: Mapping[str, Any]) -> None:
    """Raise UserError for an option that loads weights."""
    for name in _LOADING:
        if options.get(name):
            raise UserError(f"model.{name}: weights are loaded from a file, by model.weights=FILE")


def set_in_channels(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution if the images do not have three channels."""
    if in_channels == _COLOURS:
        return
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    network.set_submodule(name, new)


def set_bn_momentum(network: nn.Module, bn_momentum: float | None) -> None:
    """Set the momentum of every BatchNorm; None leaves the network's own."""
    if bn_momentum is None:
        return
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = bn_momentum
