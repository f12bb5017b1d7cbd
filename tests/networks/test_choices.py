"""Every network for images that `model=` names: its size, its input, and what OPT covers of it."""

import sys

import pytest
import torch
from torch import nn

from opt_runner.config.compose import from_arguments, suiting
from opt_runner.errors import UserError
from opt_runner.networks import ResNet, WideResNet, from_timm, from_torchvision, resnet18, vit
from opt_runner.opt import OPT
from opt_runner.run.build import network_of

NAMES = suiting(frozenset({"in_channels", "image_size", "num_classes"}))
# Small forms of them, quick to run.
SMALL = {
    "wide_resnet": ["model.factor=1", "model.depth=10"],
    "vit_tiny": ["model.depth=2", "model.width=24"],
    "torchvision": ["model.arch=mobilenet_v3_small", "+model.dropout=0.1"],
    "timm": ["model.arch=resnet10t", "+model.drop_path_rate=0.1"],
}


def small(name: str, channels: int, size: tuple[int, int]) -> nn.Module:
    config = from_arguments(f"model={name}", *SMALL.get(name, []))
    gives = {"in_channels": channels, "image_size": size, "num_classes": 7}
    return network_of(config, gives, steps=1000)


@pytest.mark.parametrize("name", NAMES)
def test_it_takes_grey_images_and_opt_leaves_its_classifier(name: str) -> None:
    if name == "timm":
        pytest.importorskip("timm")
    network = small(name, 1, (16, 16)).eval()
    opt = OPT(network, "frame")
    assert opt(torch.randn(2, 1, 16, 16)).shape == (2, 7)
    last = [row for row in opt.summary().rows if row.n is not None][-1]
    assert (last.n, last.method) == (7, "plain")
    assert last.type in ("Linear", "NonDynamicallyQuantizableLinear")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    # 0.001 x 75,000 / 1,000 steps.
    assert {norm.momentum for norm in norms} == ({0.075} if name != "vit_tiny" else set())


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        # Published, or those of other implementations, for ten classes.
        (lambda: ResNet(3, 10), 269_722),
        (lambda: ResNet(3, 10, units=5), 464_154),
        (lambda: WideResNet(3, 10, depth=28, factor=10), 36_479_194),
        (lambda: resnet18(3, 10), 11_173_962),
        (lambda: resnet18(3, 1000, stem="imagenet"), 11_689_512),
        (lambda: vit(3, (224, 224), 1000, patch=16), 5_717_416),
    ],
)
def test_their_sizes(make, parameters: int) -> None:
    with torch.device("meta"):
        network = make()
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_the_authors_residual_network() -> None:
    network = ResNet(3, 10, units=5, widths=(96, 192, 384), shortcut="projection")
    assert len([m for m in network.modules() if isinstance(m, nn.Conv2d)]) == 31 + 2
    assert network.stages[2][0].shortcut[0].weight.shape == (384, 192, 1, 1)
    assert network.stages(network.stem(torch.randn(1, 3, 32, 32))).shape == (1, 384, 8, 8)


def test_an_identity_shortcut_keeps_every_second_pixel() -> None:
    unit = ResNet(3, 10).stages[1][0]
    x = torch.randn(2, 16, 5, 5)
    y = unit.shortcut(x)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()


def test_w_is_drawn_as_the_paper_draws_it() -> None:
    for network in (ResNet(3, 10), resnet18(3, 10), WideResNet(3, 10)):
        convolutions = (m.weight for m in network.modules() if isinstance(m, nn.Conv2d))
        W = next(weight for weight in convolutions if weight.numel() > 30_000)
        assert float(W.detach().std()) == pytest.approx((2 / W[0].numel()) ** 0.5, rel=0.03)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ResNet(3, 10, widths=(8, 4)), "must not descend"),
        (lambda: WideResNet(3, 10, depth=17), "must be 6 n"),
        (lambda: vit(3, (32, 30), 10), "not square"),
        (lambda: vit(3, (30, 30), 10), "no multiple of model.patch=4"),
        (lambda: vit(3, (32, 32), 10, width=10), "a multiple of model.heads=3"),
        (lambda: from_torchvision("resnet81", 3, (32, 32), 10), "did you mean 'resnet18'"),
        (lambda: from_torchvision("fcn_resnet50", 3, (32, 32), 10), "no classifier"),
        (lambda: from_torchvision("resnet18", 3, (32, 32), 10, drop=1), "argument 'drop'"),
        (lambda: from_torchvision("vit_b_16", 3, (40, 40), 10), "indivisible by patch"),
        (lambda: from_torchvision("vit_b_16", 3, (32, 16), 10), "needs square images"),
    ],
)
def test_what_cannot_be_made_is_one_line(make, says: str) -> None:
    with torch.device("meta"), pytest.raises(UserError) as caught:
        make()
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("arch", "side"), [("vit_b_16", 32), ("inception_v3", 75), ("swin_t", 32)])
def test_torchvisions_take_the_size_of_the_images(arch: str, side: int) -> None:
    with torch.device("meta"):
        network = from_torchvision(arch, 3, (side, side), 5)
        assert network(torch.randn(2, 3, side, side)).shape == (2, 5)


def test_timms_take_the_size_of_the_images() -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        network = from_timm("vit_tiny_patch16_224", 1, (32, 32), 5)
        assert network(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    with pytest.raises(UserError, match="did you mean 'resnet26'"):
        from_timm("resnet62", 3, (32, 32), 5)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        from_timm("resnet26", 3, (32, 32), 10)


def test_a_network_by_name_has_that_name() -> None:
    config = from_arguments("model=torchvision", "model.arch=convnext_tiny")
    assert config.model.name == "convnext_tiny"
    assert "convnext_tiny" in config.directory("0").parts
    with pytest.raises(UserError, match=r"model\.arch must be given"):
        from_arguments("model=torchvision")
