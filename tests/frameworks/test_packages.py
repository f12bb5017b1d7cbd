"""Networks of timm, diffusers and peft that hold what OPT must not cover without a word."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from opt_runner import OPT, merge
from opt_runner.errors import UserError


def notes(opt: OPT) -> dict[str, str]:
    return {row.layer: row.note for row in opt.summary().rows if row.note}


def step(opt: OPT, output: torch.Tensor) -> None:
    optimizer = opt.optimizer(lr=0.1)
    output.square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("arch", ["nf_resnet26", "resnetv2_50x1_bit"])
def test_standardised_convolutions_of_timm_are_named(arch: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        opt = OPT(timm.create_model(arch))
    kind = {"nf_resnet26": "ScaledStdConv2d", "resnetv2_50x1_bit": "StdConv2d"}[arch]
    layers = [row for row in opt.summary().rows if row.type == kind and row.d]
    assert layers
    assert {row.note for row in layers} == {"own forward"}


def test_spatial_gates_of_timm_start_near_zero() -> None:
    mixer = pytest.importorskip("timm.models.mlp_mixer")
    network = mixer.MlpMixer(
        num_classes=3, img_size=16, patch_size=8, num_blocks=1, embed_dim=8,
        mlp_ratio=4, block_layer=mixer.SpatialGatingBlock, mlp_layer=mixer.GatedMlp,
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"^blocks.0.mlp_channels.gate.proj: trained plainly"):
        opt = OPT(network)
    step(opt, opt(torch.randn(2, 3, 16, 16)))
    assert notes(opt)["blocks.0.mlp_channels.gate.proj"] == "zero at the start"


def controlnet() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.ControlNetModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4,
        conditioning_embedding_out_channels=(4, 8),
    )  # fmt: skip


def test_zero_convolutions_of_a_controlnet_train_plainly() -> None:
    torch.manual_seed(0)
    network = controlnet()
    with pytest.warns(UserWarning, match="trained plainly, as W is zero at the start"):
        opt = OPT(network, "cayley")
    zero = {name for name, note in notes(opt).items() if note == "zero at the start"}
    assert "controlnet_cond_embedding.conv_out" in zero
    assert {f"controlnet_down_blocks.{i}" for i in range(4)} <= zero
    before = network.controlnet_down_blocks[0].weight.detach().clone()
    x = torch.randn(1, 4, 8, 8)
    out = opt(x, 3, torch.randn(1, 2, 8), controlnet_cond=torch.randn(1, 3, 16, 16))
    step(opt, out.down_block_res_samples[0] + 1)
    assert not torch.equal(network.controlnet_down_blocks[0].weight, before)
    with pytest.raises(UserError, match=r"'controlnet_down_blocks.0' cannot be covered: W is zero"):
        OPT(controlnet(), include=["controlnet_down_blocks.0"])


@pytest.mark.parametrize("method", ["cayley", "ogd", "frame", "sopt", "oft", "poet"])
def test_a_unet_of_diffusers(method: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8,),
        norm_num_groups=4, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    opt = OPT(network, method)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([1, 2])
    for _ in range(2):
        step(opt, opt(x, t).sample)
    torch.testing.assert_close(merge(opt)(x, t).sample, opt(x, t).sample, rtol=1e-4, atol=1e-5)


def lora(lib: Any, network: nn.Module) -> nn.Module:
    return lib.get_peft_model(network, lib.LoraConfig(r=2, target_modules=["0", "2"]))


def test_opt_beside_lora() -> None:
    """The base is frozen, A and B train; OPT covers A, as B is zero, or the base by name."""
    lib = pytest.importorskip("peft")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    adapted = lora(lib, network)
    base = [name for name, _ in adapted.named_modules() if name.endswith("base_layer")]
    x = torch.randn(4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt = OPT(adapted, "cayley", include=base, weights="pretrained")
    torch.testing.assert_close(opt(x), adapted(x))
    assert opt.layers == base
    before = {name: p.detach().clone() for name, p in opt.named_parameters()}
    optimizer = opt.optimizer(lr=0.1)
    for _ in range(2):  # lora_A has a gradient once lora_B is not zero
        opt(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in opt.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name or name.endswith("trained.R")}
    merged = merge(opt)
    torch.testing.assert_close(merged(x), opt(x))
    torch.testing.assert_close(merged.merge_and_unload()(x), opt(x))


def test_b_of_lora_is_refused_by_name() -> None:
    lib = pytest.importorskip("peft")
    network = lora(lib, nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)))
    with pytest.raises(UserError, match=r"lora_B.default' cannot be covered: W is zero"):
        OPT(network, include=["base_model.model.0.lora_B.default"])
    with pytest.warns(UserWarning, match=r"lora_B\.default: trained plainly"):
        opt = OPT(network, include=["*lora*"])
    assert all("lora_A" in name for name in opt.layers)
