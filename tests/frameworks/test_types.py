"""Modules of other packages that hold matrices: their layers turn, and merge into the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opt_runner import OPT, merge, module_types, register_layer
from opt_runner.errors import UserError
from tests.frameworks.test_heads import SMALL

METHODS = ["cayley", "ogd", "frame", "sopt", "oft", "poet"]
TOKENS = torch.randint(32, (2, 8), generator=torch.Generator().manual_seed(0))


def gpt2(lib: Any) -> nn.Module:
    return lib.GPT2LMHeadModel(lib.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32))


def experts(kind: str, **options: Any) -> Callable[[Any], nn.Module]:
    def make(lib: Any) -> nn.Module:
        config = getattr(lib, f"{kind}Config")(**SMALL, num_key_value_heads=1, **options)
        return getattr(lib, f"{kind}ForCausalLM")(config)

    return make


LANGUAGE = {
    "gpt2": gpt2,
    "mixtral": experts("Mixtral", num_local_experts=3),
    "qwen2_moe": experts("Qwen2Moe", num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8,
                         shared_expert_intermediate_size=8),
    "gpt_oss": experts("GptOss", num_local_experts=3, num_experts_per_tok=2, head_dim=8),
}  # fmt: skip


def step(opt: OPT, optimizer: torch.optim.Optimizer, **inputs: Tensor) -> Tensor:
    loss: Tensor = opt(**inputs).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models_of_transformers(name: str, method: str) -> None:
    torch.manual_seed(0)
    network = LANGUAGE[name](pytest.importorskip("transformers"))
    opt = OPT(network, method).eval()
    matrices = {row.d * row.n for row in opt.summary().rows if row.method == method}
    assert sum(matrices) > 0
    assert "lm_head" not in opt.layers
    before = {layer: V.mT @ V for layer, V in opt.neurons().items()}
    optimizer = opt.optimizer(lr=0.1)
    for _ in range(2):
        step(opt, optimizer, input_ids=TOKENS, labels=TOKENS)
    if method != "poet":  # which mixes neurons
        for layer, V in opt.neurons().items():
            torch.testing.assert_close(V.mT @ V, before[layer], rtol=1e-3, atol=1e-5)
    plain = merge(opt).eval()
    assert type(plain) is type(network)
    torch.testing.assert_close(
        plain(input_ids=TOKENS).logits, opt(input_ids=TOKENS).logits, rtol=1e-4, atol=1e-5
    )


def test_all_matrices_of_language_models_are_layers() -> None:
    lib = pytest.importorskip("transformers")
    for make in LANGUAGE.values():
        network = make(lib)
        rows = OPT(network).summary().rows
        covered = sum(row.d * row.n for row in rows if row.d and row.method != "plain")
        matrices = sum(
            p.numel() for name, p in network.named_parameters()
            if p.ndim > 1 and not any(word in name for word in ("wte", "wpe", "embed", "lm_head"))
        )  # fmt: skip
        assert covered > 0.9 * matrices


def test_each_expert_is_a_layer_of_its_own() -> None:
    network = LANGUAGE["mixtral"](pytest.importorskip("transformers"))
    opt = OPT(network, include=["*.experts"])
    name = "model.layers.0.mlp.experts.down_proj.2"
    assert name in opt.layers
    V = opt.neurons()[name]
    torch.testing.assert_close(V.mT, network.model.layers[0].mlp.experts.down_proj[2])
    with_types = OPT(LANGUAGE["mixtral"](pytest.importorskip("transformers")),
                     types=["MixtralExperts"])  # fmt: skip
    assert with_types.layers == opt.layers


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lazy", [False, True])
def test_graph_networks_of_pyg(method: str, lazy: bool) -> None:
    lib = pytest.importorskip("torch_geometric")
    torch.manual_seed(0)
    network = lib.nn.GraphSAGE(-1 if lazy else 6, 8, num_layers=2, out_channels=3)
    x, edges = torch.randn(5, 6), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    if lazy:
        with pytest.raises(UserError, match="is lazy: run one batch through the network first"):
            OPT(network, method)
        network(x, edges)
    opt = OPT(network, method)
    assert opt.layers[:2] == ["convs.0.lin_l", "convs.0.lin_r"]
    optimizer = opt.optimizer(lr=0.1)
    for _ in range(2):
        opt(x, edges).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(merge(opt)(x, edges), opt(x, edges))


@pytest.mark.parametrize("kind", ["GCNConv", "GATConv", "GINConv", "RGCNConv", "TransformerConv"])
def test_convolutions_of_pyg(kind: str) -> None:
    lib = pytest.importorskip("torch_geometric").nn
    torch.manual_seed(0)
    more = {"num_relations": 2} if kind == "RGCNConv" else {}
    if kind == "GINConv":
        hidden = lib.GINConv(lib.MLP([6, 8, 8], norm=None))
    else:
        hidden = getattr(lib, kind)(6, 8, **more)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = hidden
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            types = (torch.tensor([0, 1, 0, 1]),) if kind == "RGCNConv" else ()
            return self.head(torch.relu(self.hidden(x, edges, *types)))

    x, edges = torch.randn(5, 6), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    opt = OPT(Net(), "cayley", start="normal")
    assert all(name.startswith("hidden") for name in opt.layers)
    opt(x, edges).square().sum().backward()
    assert all(R.grad is not None and R.grad.any() for R in opt.stacks.parameters())
    torch.testing.assert_close(merge(opt)(x, edges), opt(x, edges))


class Projection(nn.Module):
    """A matrix of x @ weight, and a bank of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 8))
        self.bank = nn.Parameter(torch.randn(3, 8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,kij->bj", torch.relu(x @ self.matrix), self.bank)


def projections() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Projection(), nn.Linear(5, 3))


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_types, "_registered", dict(module_types._registered))


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_type_that_is_registered(method: str, by_name: bool) -> None:
    kind = f"{__name__}.Projection" if by_name else Projection
    register_layer(kind, {"matrix": "d n", "bank": "k d n"})
    network = projections()
    opt = OPT(network, method)
    assert opt.layers == ["0.matrix", "0.bank.0", "0.bank.1", "0.bank.2"]
    torch.testing.assert_close(opt.neurons()["0.bank.1"], network[0].bank[1])
    optimizer = opt.optimizer(lr=0.1)
    x = torch.randn(4, 6)
    for _ in range(2):
        opt(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(merge(opt)(x), opt(x))


@pytest.mark.usefixtures("_registry")
def test_registered_types_are_chosen_by_name_and_by_type() -> None:
    register_layer(Projection, {"matrix": "d n", "bank": "k d n"}, named_only=True)
    with pytest.raises(UserError, match="covers no layer of Sequential"):
        OPT(projections())
    assert OPT(projections(), types=["Projection"]).layers[0] == "0.matrix"
    with pytest.raises(UserError, match=r"0.bank holds 0.bank.0, .* cannot be fixed while"):
        OPT(projections(), include=["0.bank.1"])
    assert OPT(projections(), include=["0.matrix"]).layers == ["0.matrix"]


@pytest.mark.usefixtures("_registry")
def test_a_type_that_is_not_registered_is_named_in_messages() -> None:
    with pytest.raises(UserError, match=r"register_layer makes layers of Projection \(168\)"):
        OPT(projections())
    with pytest.raises(UserError, match=r"register_layer\('.*Projection', {'matrix': 'n d'}\)"):
        OPT(projections(), include=["0"])
    for axes in ("d", "n n", "k n", "d k n", "a b"):
        with pytest.raises(UserError, match="give one n"):
            register_layer(Projection, {"matrix": axes})
    for axes in ("n d d", "k n d d"):
        register_layer(Projection, {"matrix": axes})
        with pytest.raises(UserError, match=r"Projection.matrix has 2 dimensions, and is regis"):
            OPT(projections())


def test_bilinear_maps_are_covered_where_they_are_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = nn.Bilinear(3, 4, 5)
            self.one = nn.Linear(5, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.one(self.pair(x[:, :3], x[:, 3:]))))

    assert OPT(Net()).layers == ["one"]
    opt = OPT(Net(), types=[nn.Bilinear], start="normal")
    assert opt.layers == ["pair"]
    assert opt.neurons()["pair"].shape == (12, 5)
    x = torch.randn(2, 7)
    torch.testing.assert_close(merge(opt)(x), opt(x))
