"""torchvision's vision transformers."""

from torch import nn

from opt_runner.errors import UserError
from opt_runner.networks.by_name import set_in_channels
from opt_runner.networks.shared import Depth, Dropped, Positive


def vit(
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    patch: Positive = 4,
    width: Positive = 192,
    depth: Depth = 12,
    heads: Positive = 3,
    mlp_width: Positive = 768,
    dropout: Dropped = 0.0,
) -> nn.Module:
    """Return a transformer on patches of `patch` x `patch` pixels; the defaults are ViT-Tiny.

    It starts as torchvision starts it. Input (batch, in_channels, side, side); output (batch,
    num_classes).
    Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021); Touvron et al.,
    "Training data-efficient image transformers" (ICML 2021) for the tiny size.
    Raises UserError for images that are not square or no multiple of a patch, and for a width that
    the heads cannot share.
    """
    from torchvision.models import VisionTransformer  # slow to import

    height, side = image_size
    if height != side or side % patch:
        raise UserError(
            f"images of {height} x {side} are not square, or no multiple of model.patch={patch}: "
            "set model.patch, or dataset.size"
        )
    if width % heads:
        raise UserError(f"model.width={width} must be a multiple of model.heads={heads}")
    network: nn.Module = VisionTransformer(
        image_size=side,
        patch_size=patch,
        num_layers=depth,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=mlp_width,
        dropout=dropout,
        num_classes=num_classes,
    )
    set_in_channels(network, in_channels)
    return network
