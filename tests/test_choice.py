"""Which layers are covered, by which of several methods, and the summary that says so."""

import copy
import math

import pytest
import torch
from torch import nn

from opt_runner import OPT, Rule, merge
from opt_runner.errors import UserError
from tests.networks_of_users import TransformerEncoder
from tests.small import small_cnn, train

CONVOLUTIONS = ["features.0", "features.3", "features.7", "features.10"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [*CONVOLUTIONS, "fc"]),
        ({"include": ["features.*"]}, CONVOLUTIONS),
        ({"include": ["features"], "types": ["Linear"]}, None),
        ({"include": ["f*"], "exclude": ["features.?"]}, ["features.10", "fc"]),
        ({"include": ["classifier", "fc"]}, ["fc", "classifier"]),
        ({"exclude": ["fc"]}, CONVOLUTIONS),
        ({"types": [nn.Conv2d], "exclude": ["features.0"]}, [*CONVOLUTIONS[1:], "fc"]),
        ({"max_d": 54}, ["features.0", "features.3", "features.7", "fc"]),
    ],
)
def test_layers_are_chosen(options: dict, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(UserError, match="'features' is no layer"):
            OPT(small_cnn(), **options)
        return
    opt = OPT(small_cnn(), **options)
    assert opt.layers == expected
    covered = {f"{name}.weight" for name in expected}
    frozen = {name for name, p in opt.network.named_parameters() if not p.requires_grad}
    assert frozen == covered


def test_a_module_stands_for_all_of_its_layers() -> None:
    opt = OPT(TransformerEncoder(), include=["*.self_attn"], exclude=["*.1.*.v", "*.1.self_attn"])
    assert opt.layers == [f"encoder.layers.0.self_attn.{p}" for p in "qkv"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"include": "features.*"}, "include='features.*' must be a list: include=['features.*']"),
        ({"exclude": ["feature.*"]}, "exclude: 'feature.*' is no layer that can be covered"),
        ({"types": ["Conv3d"]}, "types: 'Conv3d' is no type of a layer here; did you mean 'Conv2d"),
        ({"types": [nn.Conv1d]}, "types: 'Conv1d' is no type of a layer here"),
        ({"max_d": 2}, "Cayley covers no layer of PlainCNN"),
        ({"method": [Rule("gs")], "max_d": 2}, "go to the Rules of a list"),
        ({"method": [Rule("gs")], "share": 2}, "go to the Rules of a list"),
    ],
)
def test_mistakes(options: dict, says: str) -> None:
    with pytest.raises(UserError) as caught:
        OPT(small_cnn(), **options)
    assert says in str(caught.value)


MIXED = [
    Rule("cayley", max_d=27),
    Rule("sopt", share=0.5, round_steps=3, exclude=["fc"], max_d=54),
    Rule("ogd", include=["features.10"]),
    Rule("or", exclude=["classifier"]),
]


def test_several_methods_train_one_network() -> None:
    opt = OPT(small_cnn(), MIXED)
    methods = {row.layer: row.method for row in opt.summary().rows}
    assert methods == {
        "features.0": "cayley", "features.3": "sopt", "features.7": "sopt",
        "features.10": "ogd", "fc": "or", "classifier": "plain",
    }  # fmt: skip
    before = {name: p.detach().clone() for name, p in opt.named_parameters()}
    train(opt, steps=5)
    changed = {name for name, p in opt.named_parameters() if not torch.equal(p, before[name])}
    frozen = {name for name, p in opt.named_parameters() if not p.requires_grad}
    turned = {"network.features.3.weight", "network.features.7.weight"}
    assert changed == (set(before) - frozen) | turned, "sopt's rounds alone write W"
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(merge(opt.eval()).eval()(x), opt(x))


def test_several_methods_compute_what_each_does_alone() -> None:
    torch.manual_seed(3)
    both = OPT(small_cnn(), [Rule("gs", include=["features.0"]), Rule("or", scale=2.0)])
    R = {stack.layers[0].name: stack.trained["R"] for stack in both.stacks}
    x = torch.randn(2, 3, 8, 8)
    both(x)
    alone = OPT(small_cnn(), "or", scale=2.0, exclude=["features.0"])
    with torch.no_grad():
        for opt in (both, alone):
            for stack in opt.stacks:
                if stack.method.has_penalty:
                    stack.trained["R"].mul_(1.1)
    torch.testing.assert_close(both.penalty(), alone.penalty())
    first = OPT(small_cnn(), "gs", include=["features.0"])
    with torch.no_grad():
        first.stacks[0].trained["R"].copy_(R["features.0"])
    assert torch.equal(
        first.effective_weights()["features.0.weight"],
        both.effective_weights()["features.0.weight"],
    )


def test_the_first_method_says_how_what_has_no_method_trains() -> None:
    for rules, scale in ((["ogd", "gs"], 0.1), (["gs", "ogd"], 1.0)):
        methods = [Rule(rules[0], max_d=27), Rule(rules[1])]
        optimizer = OPT(small_cnn(), methods).optimizer(lr=0.1, weight_decay=1.0)
        assert type(optimizer).__name__ == "RetractionSGD"
        assert optimizer.param_groups[0]["weight_decay"] == scale
        assert sorted(g["lr"] for g in optimizer.param_groups) == [0.02, 0.1, 0.1]


def test_a_step_counts_once_whatever_other_optimizers_there_are() -> None:
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # which hooks the class SGD
    opt = OPT(small_cnn(), "ogd")
    train(opt, steps=3)
    assert opt.steps == 3


def test_copies_of_a_mixed_network_train_alike() -> None:
    opt = OPT(small_cnn(), MIXED)
    twin = copy.deepcopy(opt)
    assert train(opt, steps=5) == train(twin, steps=5)


def test_the_summary_is_of_every_weight() -> None:
    network = TransformerEncoder()
    network.head.requires_grad_(False)
    opt = OPT(network, "cayley", max_d=8)
    summary = opt.summary()
    assert sum(row.layer.endswith("linear2") for row in summary.rows) == 2
    by_name = {row.layer: row for row in summary.rows}
    q = by_name["encoder.layers.0.self_attn.q"]
    assert (q.type, q.d, q.n, q.trained, q.method) == ("MultiheadAttention", 8, 8, 64, "cayley")
    assert by_name["encoder.layers.0.linear2"].method == "plain"
    assert by_name["head"].method == "frozen"
    position = by_name["position"]
    assert (position.d, position.trained, position.method) == (None, 40, "plain")
    assert summary.trained == sum(p.numel() for p in opt.parameters() if p.requires_grad)
    assert summary.others == sum(p.ndim < 2 for p in network.parameters())
    text = str(summary)
    assert "encoder.layers.0.linear2" in text
    assert f"{summary.trained:,} parameters train" in text


def test_a_long_summary_has_a_row_for_what_is_alike() -> None:
    network = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(40)))
    text = str(OPT(network, "ogd", weights="gaussian").summary())
    assert "0 and 38 more" in text
    assert f"{39 * 16:,}" in text
    assert math.isclose(len(text.splitlines()), 8, abs_tol=2)
