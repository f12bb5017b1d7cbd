"""Every type of module: its weights as W, the network on V, what is left plain."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from opt_runner import OPT, merge
from opt_runner.candidates import candidates
from opt_runner.errors import UserError
from tests.networks_of_users import NETWORKS, Recurrent, TransformerEncoder

METHODS = ("gs", "hr", "ls", "cayley", "ogd", "or", "sopt")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_trains_keeps_its_angles_and_merges(name: str, method: str) -> None:
    make, x, options = NETWORKS[name]
    torch.manual_seed(0)
    opt = OPT(make(), method, **options)
    cosines = {layer: _cosines(V) for layer, V in opt.neurons().items()}
    optimizer = opt.optimizer(lr=0.01)
    losses = []
    for _ in range(3):
        loss = opt(x).square().mean() + opt.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]
    for stack in opt.stacks:
        assert stack.trained["R"].grad is not None or method == "ogd"
    if method != "or":
        assert opt.orthogonality_error() < 1e-5
        for layer, V in opt.neurons().items():
            torch.testing.assert_close(_cosines(V), cosines[layer], rtol=0, atol=1e-4)
    plain = merge(opt.eval()).eval()
    assert all(p.requires_grad for p in plain.parameters())
    with torch.no_grad():
        expected = opt(x)
        assert (plain(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def _cosines(V: Tensor) -> Tensor:
    unit = V / V.norm(dim=0).clamp(min=1e-12)
    return unit.T @ unit


CONVOLUTIONS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv1d(4, 6, 3), (2, 4, 7)),
    (nn.Conv2d(4, 6, (2, 3), groups=2), (2, 4, 5, 5)),
    (nn.Conv3d(2, 3, (1, 2, 3)), (2, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(4, 6, 3), (2, 4, 7)),
    (nn.ConvTranspose2d(4, 6, (2, 3), groups=2, stride=2), (2, 4, 5, 5)),
    (nn.ConvTranspose3d(2, 3, (1, 2, 3)), (2, 2, 4, 4, 4)),
]


@pytest.mark.parametrize("per_group", [False, True])
@pytest.mark.parametrize(("module", "shape"), CONVOLUTIONS, ids=lambda value: type(value).__name__)
def test_columns_of_w_are_the_neurons(module: Any, shape: tuple[int, ...], per_group: bool) -> None:
    """Where a neuron's column is zero, and no other, its output is the bias."""
    x = torch.randn(shape)
    found = [one.layer for one in candidates(module, per_group)]
    assert len(found) == (module.groups if per_group else 1)
    assert sum(layer.n for layer in found) == module.out_channels
    before = module(x)
    for i, layer in enumerate(found):
        W = layer.matrix(module.weight)
        assert W.shape == (layer.d, layer.n)
        assert layer.d * module.out_channels == module.weight.numel()
        assert torch.equal(layer.weight(W), layer.part(module.weight))
        V = torch.stack([W, 2 * W])
        V[0, :, -1] = 0
        changed = copy.deepcopy(module)
        with torch.no_grad():
            layer.part(changed.weight).copy_(layer.weight(V)[0])
            after = changed(x)
        neuron = i * layer.n + layer.n - 1
        assert (after[:, neuron] == module.bias[neuron]).all()
        others = [channel for channel in range(module.out_channels) if channel != neuron]
        assert torch.equal(after[:, others], before[:, others])


def test_attention_has_a_w_for_each_projection() -> None:
    packed = nn.MultiheadAttention(8, 2)
    layers = {one.layer.name: one.layer for one in candidates(packed)}
    assert {name: (layer.d, layer.n) for name, layer in layers.items()} == dict.fromkeys(
        ["q", "k", "v", "out_proj"], (8, 8)
    )
    assert torch.equal(layers["k"].matrix(packed.in_proj_weight), packed.in_proj_weight[8:16].T)
    separate = nn.MultiheadAttention(8, 2, kdim=3, vdim=5)
    assert [(one.layer.name, one.layer.d) for one in candidates(separate)] == [
        ("q", 8), ("k", 3), ("v", 5), ("out_proj", 8),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LSTM(3, 4), ["weight_ih_l0.i", "weight_ih_l0.f", "weight_ih_l0.g", "weight_ih_l0.o"]),
        (nn.GRU(3, 4), ["weight_ih_l0.r", "weight_ih_l0.z", "weight_ih_l0.n"]),
        (nn.RNN(3, 4), ["weight_ih_l0"]),
        (nn.LSTMCell(3, 4), ["weight_ih.i", "weight_ih.f", "weight_ih.g", "weight_ih.o"]),
    ],
)
def test_each_gate_has_a_w(module: nn.Module, expected: list[str]) -> None:
    found = candidates(module)
    assert [one.layer.name for one in found][: len(expected)] == expected
    assert {(one.layer.d, one.layer.n) for one in found} == {(3, 4), (4, 4)}
    assert all(one.on_demand for one in found)


def test_an_lstms_projection_and_both_directions() -> None:
    names = [one.layer.name for one in candidates(nn.LSTM(3, 4, proj_size=2, bidirectional=True))]
    assert len(names) == 2 * (4 + 4 + 1)
    assert "weight_hr_l0_reverse" in names


def test_embeddings_and_recurrent_weights_are_covered_on_demand() -> None:
    opt = OPT(Recurrent(), "cayley")
    assert opt.layers == ["hidden"]
    opt = OPT(Recurrent(), "cayley", include=["lstm", "hidden", "embedding"])
    assert len(opt.layers) == 1 + 8 + 1
    opt = OPT(Recurrent(), "cayley", types=[nn.Embedding, "Linear"])
    assert opt.layers == ["embedding", "hidden"]


def test_a_weight_shared_with_an_embedding_is_one_layer() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(11, 6)
            self.hidden = nn.Linear(6, 6)
            self.decoder = nn.Linear(6, 11, bias=False)
            self.decoder.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.hidden(self.embedding(x)))

    assert OPT(Tied(), "cayley").layers == ["hidden"], "the decoder is the classifier"
    with pytest.raises(UserError, match=r"also the weight of 'decoder', .* include=\['decoder'\]"):
        OPT(Tied(), "cayley", types=["Embedding"])
    opt = OPT(Tied(), "cayley", include=["*"])
    assert opt.layers == ["hidden", "decoder"]
    x = torch.arange(5)
    opt(x).sum().backward()
    plain = merge(opt)
    torch.testing.assert_close(plain(x), opt(x))
    assert plain.decoder.weight is plain.embedding.weight
    assert opt.summary().trained == 6 * 6 + 6 + 6 * 6


def test_a_part_of_a_packed_weight() -> None:
    network = TransformerEncoder()
    with pytest.raises(UserError, match=r"in_proj_weight holds .*\.k, .*cannot be fixed while"):
        OPT(network, include=["*.q", "*.v"])
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    names = [f"encoder.layers.{i}.self_attn.{p}" for i in (0, 1) for p in "qv"]
    opt = OPT(network, "cayley", include=names, start="normal")
    assert opt.layers == names
    weight = network.get_parameter("encoder.layers.0.self_attn.in_proj_weight")
    V = opt.effective_weights()["encoder.layers.0.self_attn.in_proj_weight"]
    assert torch.equal(V[8:16], weight[8:16])
    assert not torch.equal(V[:8], weight[:8])
    plain = merge(opt)
    assert not any(p.requires_grad for p in plain.parameters()), "as the user had frozen it"


WEIGHT_MADE = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm, old": weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm, old": nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", WEIGHT_MADE)
def test_another_parametrization_is_named(kind: str) -> None:
    network = nn.Sequential(nn.Linear(4, 4), WEIGHT_MADE[kind](nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.raises(UserError, match=r"layer '1' cannot be covered: its weight is made by"):
        OPT(network)
    opt = OPT(network, exclude=["1"])
    assert opt.layers == ["0"]
    assert "1.weight" not in {row.layer for row in opt.summary().rows}
    opt(torch.randn(3, 4)).sum().backward()
    assert opt.stacks[0].trained["R"].grad.any()


@pytest.mark.parametrize(
    ("options", "says"),
    [({"sparse": True}, "its gradient is sparse"), ({"max_norm": 1.0}, "changes its weight")],
)
def test_embeddings_that_cannot_be_covered(options: dict[str, Any], says: str) -> None:
    network = nn.Sequential(nn.Embedding(5, 4, **options), nn.Linear(4, 4), nn.Linear(4, 2))
    assert OPT(network).layers == ["1"]
    with pytest.raises(UserError, match=says):
        OPT(network, include=["0"])


def test_lazy_modules_are_covered_once_they_have_shapes() -> None:
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3), nn.Linear(3, 2))
    with pytest.raises(UserError, match="layer '0' is lazy"):
        OPT(network)
    network(torch.randn(2, 3, 5, 5))
    assert OPT(network).layers == ["0", "2"]


def test_one_r_a_group() -> None:
    network = nn.Sequential(nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 12, 3, groups=12))
    network.append(nn.Conv2d(12, 2, 1))
    x = torch.randn(2, 8, 6, 6)
    for per_group, counts in ((False, [1, 1]), (True, [4, 1])):
        opt = OPT(copy.deepcopy(network), "cayley", per_group=per_group)
        assert [len(stack.trained["R"]) for stack in opt.stacks] == counts
        torch.testing.assert_close(merge(opt)(x), opt(x))
    assert opt.layers == ["0.group0", "0.group1", "0.group2", "0.group3", "1"]


def test_what_is_frozen_stays_so_unless_it_is_named() -> None:
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    network[1].weight.requires_grad_(False)
    assert OPT(copy.deepcopy(network)).layers == ["0", "2"]
    assert OPT(copy.deepcopy(network), include=["[012]"]).layers == ["0", "2"]
    opt = OPT(network, include=["0", "1"])
    assert opt.layers == ["0", "1"]
    plain = merge(opt)
    assert not plain[1].weight.requires_grad
    assert plain[0].weight.requires_grad


def test_an_empty_weight_is_named_and_may_be_left_out() -> None:
    network = nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(UserError, match="layer '0' cannot be covered: it is empty"):
        OPT(network)
    assert OPT(network, exclude=["0", "1"]).layers == ["2"]
