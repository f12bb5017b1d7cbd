"""Heads of real networks stay plain: by their names, their ties, and by what ends in an output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opt_runner import OPT
from opt_runner.candidates import candidates


def heads(network: nn.Module, example: Any = None) -> set[str]:
    return {one.layer.name for one in candidates(network, example=example) if one.layer.output}


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("levit_128s", {"head.linear", "head_dist.linear"}),
        ("deit_tiny_distilled_patch16_224", {"head", "head_dist"}),
        ("efficientformer_l1", {"head", "head_dist"}),
        ("crossvit_tiny_240", {"head.0", "head.1"}),
        ("repvit_m0_9", {"head.head.l", "head.head_dist.l"}),
        ("volo_d1_224", {"head", "aux_head"}),
        ("efficientnet_b0", {"classifier"}),
        ("xcit_nano_12_p8_224", {"head"}),
        ("resnetv2_50", {"head.fc"}),
    ],
)
def test_timm(arch: str, expected: set[str]) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        network = timm.create_model(arch)
    assert heads(network) == expected


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("fcn_resnet50", {"classifier.4", "aux_classifier.4"}),
        (
            "lraspp_mobilenet_v3_large",
            {"classifier.low_classifier", "classifier.high_classifier"},
        ),
        ("googlenet", {"fc", "aux1.fc2", "aux2.fc2"}),
    ],
)
def test_torchvision(arch: str, expected: set[str]) -> None:
    from torchvision.models import get_model

    options = {"init_weights": False} if arch == "googlenet" else {"weights_backbone": None}
    if arch == "fcn_resnet50":
        options["aux_loss"] = True
    with torch.device("meta"):
        network = get_model(arch, weights=None, **options)
    assert heads(network) == expected


SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "vocab_size": 32, "max_position_embeddings": 16,
}  # fmt: skip
TOKENS = {"input_ids": torch.tensor([[3, 5, 7]])}


def bert(kind: str) -> Callable[[Any], nn.Module]:
    return lambda lib: getattr(lib, f"BertFor{kind}")(lib.BertConfig(**SMALL))


def gpt2_double(lib: Any) -> nn.Module:
    return lib.GPT2DoubleHeadsModel(lib.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32))


def detr(lib: Any) -> nn.Module:
    backbone = lib.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], out_features=["stage1"]
    )
    sizes = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
    sides = {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in sizes.items()}
    return lib.DetrForObjectDetection(
        lib.DetrConfig(backbone_config=backbone, d_model=16, num_queries=3, **sides)
    )


@pytest.mark.parametrize(
    ("make", "expected", "inputs"),
    [
        (gpt2_double, {"lm_head", "multiple_choice_head.summary"}, TOKENS),
        (
            bert("PreTraining"),
            {"cls.predictions.decoder", "cls.seq_relationship"},
            TOKENS,
        ),
        (bert("QuestionAnswering"), {"qa_outputs"}, TOKENS),
        (
            detr,
            {"class_labels_classifier", "bbox_predictor.layers.2"},
            {"pixel_values": torch.randn(1, 3, 32, 32)},
        ),
    ],
)
def test_transformers_by_names_and_by_an_example(
    make: Callable[[Any], nn.Module], expected: set[str], inputs: dict[str, Tensor]
) -> None:
    network = make(pytest.importorskip("transformers"))
    assert heads(network) == expected
    assert heads(network, inputs) == expected
    opt = OPT(network, example=inputs)
    assert not expected & set(opt.layers)
    notes = {row.layer: row.note for row in opt.summary().rows}
    named = {name for name, note in notes.items() if note == "output"}
    assert named == (expected if len(expected) > 1 else set())  # a single one needs no note


class Named(nn.Module):
    """Two outputs whose names say nothing, in front of the layers behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(8, 2)
        self.right = nn.Linear(8, 3)
        self.inner = nn.Linear(8, 8)
        self.first = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.relu(self.inner(torch.relu(self.first(x))))
        return self.left(x), {"right": self.right(x)}


def test_an_example_tells_where_names_do_not() -> None:
    network = Named()
    mode = network.training
    assert heads(network) == {"first"}
    assert heads(network, torch.randn(2, 6)) == {"left", "right"}
    assert OPT(network, example=torch.randn(2, 6)).layers == ["inner", "first"]
    assert network.training is mode


def test_outputs_inside_an_output_and_of_routers_are_no_aims() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = (nn.Linear(4, 4) for _ in range(3))
            self.router, self.head = nn.Linear(4, 2, bias=False), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, Any]:
            first = self.first(x)
            second = self.second(first.relu())
            tower = {"last_hidden_state": second, "pooled": self.head(self.last(second))}
            return {"tower": tower, "router_logits": (first,)}

    assert heads(Towers(), torch.randn(2, 4)) == {"head"}


def test_a_head_that_is_named_is_covered() -> None:
    opt = OPT(Named(), example=torch.randn(2, 6), include=["left", "first"])
    assert opt.layers == ["left", "first"]


def test_a_weight_tied_to_an_embedding_stays_plain() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decode = nn.Linear(8, 11, bias=False)
            self.embed = nn.Embedding(11, 8)
            self.decode.weight = self.embed.weight
            self.mix = nn.Linear(8, 8)
            self.last = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.last(torch.relu(self.mix(self.embed(x)))))

    network = Tied()
    assert OPT(network).layers == ["mix"]
    opt = OPT(Tied(), example=torch.tensor([[1, 2]]))
    assert opt.layers == ["mix", "last"]


def test_little_covered_is_said_with_the_types_of_the_rest() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(8, 40))

    network = nn.Sequential(nn.Linear(6, 8), Odd(), nn.LSTM(8, 8), nn.Linear(8, 3))
    with pytest.warns(UserWarning, match=r"OPT covers 5% .* LSTM \(512\), Odd \(320\): name them"):
        OPT(network)
