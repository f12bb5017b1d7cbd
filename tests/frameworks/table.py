"""Prints the table of docs/frameworks.md: `python -m tests.frameworks.table`.

Each number is the largest difference between the merged network's output and OPT's after three
steps, as a share of the largest output.
"""

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from opt_runner import OPT, merge
from tests.frameworks.test_types import LANGUAGE, TOKENS

METHODS = ["cayley", "ogd", "frame", "sopt", "oft", "poet"]
# A network, its inputs, and the tensor of its output that is compared.
Case = tuple[nn.Module, dict[str, Any], Callable[[Any], Tensor]]


def language(name: str) -> Case:
    import transformers

    inputs = {"input_ids": TOKENS, "labels": TOKENS}
    return LANGUAGE[name](transformers), inputs, lambda out: out.logits


def graph() -> Case:
    from torch_geometric.nn import GraphSAGE

    inputs = {"x": torch.randn(5, 6), "edge_index": torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])}
    return GraphSAGE(6, 8, num_layers=2, out_channels=3), inputs, lambda out: out


def unet() -> Case:
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    inputs = {"sample": torch.randn(2, 3, 8, 8), "timestep": torch.tensor([1, 2])}
    return network, inputs, lambda out: out.sample


def vit() -> Case:
    import timm

    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    return network, {"x": torch.randn(2, 3, 32, 32)}, lambda out: out


CASES: dict[str, tuple[str, Callable[[], Case]]] = {
    "GPT-2": ("transformers", lambda: language("gpt2")),
    "Mixtral": ("transformers", lambda: language("mixtral")),
    "Qwen2-MoE": ("transformers", lambda: language("qwen2_moe")),
    "gpt-oss": ("transformers", lambda: language("gpt_oss")),
    "ViT": ("timm", vit),
    "GraphSAGE": ("torch_geometric", graph),
    "UNet2D": ("diffusers", unet),
}


def merged(make: Callable[[], Case], method: str) -> float:
    torch.manual_seed(0)
    network, inputs, output = make()
    opt = OPT(network, method, **({"round_steps": 2} if method in ("sopt", "poet") else {}))
    optimizer = opt.optimizer(lr=0.05)
    for _ in range(3):
        output(opt(**inputs)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    opt.eval()
    with torch.no_grad():
        expected, found = output(opt(**inputs)), output(merge(opt)(**inputs))
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    warnings.simplefilter("ignore")
    rows = [["merged, largest difference", *METHODS], ["---"] * (len(METHODS) + 1)]
    for name, (library, make) in CASES.items():
        found = [f"{merged(make, method):.0e}" for method in METHODS]
        rows.append([f"{name}, {library} {version(library)}", *found])
    sys.stdout.write("".join(f"| {' | '.join(row)} |\n" for row in rows))


if __name__ == "__main__":
    main()
