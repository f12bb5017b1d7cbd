"""torchvision's ConvNeXt of any size, which it gives by class alone."""

from torch import nn

from opt_runner.networks.by_name import set_in_channels


def convnext(
    in_channels: int, num_classes: int, widths: tuple[int, ...], depths: tuple[int, ...]
) -> nn.Module:
    """As many blocks as `depths` says at each of the `widths`.

    They start at a tenth of their output, not at the published millionth, with which the first
    steps of a block's weights are below the rounding of float32.

    Input (batch, in_channels, side, side), side a multiple of 32; output (batch, num_classes).
    """
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    wider = (*widths[1:], None)
    blocks = [CNBlockConfig(*one) for one in zip(widths, wider, depths, strict=True)]
    network = ConvNeXt(blocks, stochastic_depth_prob=0.1, layer_scale=0.1, num_classes=num_classes)
    set_in_channels(network, in_channels)
    return network
