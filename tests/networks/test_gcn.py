"""The graph network against dense algebra, and runs on graphs by the composed config."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from opt_runner.config.compose import from_arguments
from opt_runner.console.screen import Screen
from opt_runner.datasets import Graph, GraphFile
from opt_runner.errors import UserError
from opt_runner.networks import GCN
from opt_runner.opt import OPT
from opt_runner.records.record import Record
from opt_runner.run.execute import execute
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.run import Run, identify
from opt_runner.run.set_up import set_up
from opt_runner.run.size import memory_of_step
from opt_runner.trained import evaluate, export, read
from tests.small import rows

METHODS = ["standard", "cayley", "frame", "ogd", "sopt"]


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """Twelve nodes with random edges and features that are not all alike."""
    random = np.random.default_rng(0)
    features = random.standard_normal((12, 5)) * (random.random((12, 5)) < 0.6)
    np.savez(
        tmp_path / "graph.npz",
        edges=random.integers(12, size=(2, 20)), features=features,
        labels=np.arange(12) % 3, train=np.arange(6), test=np.arange(6, 12),
    )  # fmt: skip
    return GraphFile(str(tmp_path / "graph.npz")).load()


def dense(graph: Graph) -> tuple[Tensor, Tensor]:
    """Return A_hat and X."""
    A = torch.eye(graph.nodes, dtype=torch.float64)
    A[graph.edges[0], graph.edges[1]] = A[graph.edges[1], graph.edges[0]] = 1
    D = A.sum(1).rsqrt().diag()
    X = torch.zeros(graph.nodes, graph.num_features, dtype=torch.float64)
    rows = torch.arange(graph.nodes).repeat_interleave(graph.feature_indptr.diff())
    X[rows, graph.feature_indices] = graph.feature_values
    return D @ A @ D, X


@pytest.mark.parametrize("widths", [(4,), (4, 6)])
def test_outputs_and_gradients_are_those_of_dense_matrices(
    graph: Graph, widths: tuple[int, ...]
) -> None:
    network = GCN(**graph.gives, widths=widths).double().eval()
    nodes = torch.tensor([3, 0, 7])
    A, H = dense(graph)
    for number, layer in enumerate(network.layers):
        H = A @ ((H.relu() if number else H) @ layer.weight.T)
    found = network(nodes)
    assert torch.allclose(found, H[nodes], rtol=1e-12, atol=1e-14)
    weights = list(network.parameters())
    along = torch.randn_like(found)
    expected = torch.autograd.grad(H[nodes], weights, along)
    for one, other in zip(torch.autograd.grad(found, weights, along), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_a_permutation_of_the_nodes_changes_nothing(graph: Graph) -> None:
    X = dense(graph)[1]
    order = torch.randperm(graph.nodes, generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    moved = X[order].to_sparse_csr()
    other = replace(
        graph, edges=place[graph.edges], feature_indptr=moved.crow_indices(),
        feature_indices=moved.col_indices(), feature_values=moved.values(),
    )  # fmt: skip
    first, second = (GCN(**data.gives).double().eval() for data in (graph, other))
    for one, two in zip(first.layers, second.layers, strict=True):
        two.weight.data.copy_(one.weight)
    nodes = torch.arange(graph.nodes)
    assert torch.allclose(first(nodes), second(place), rtol=1e-12, atol=1e-14)


def test_dropout_of_features_keeps_their_mean(graph: Graph) -> None:
    features = GCN(**graph.gives).double().features
    Y = torch.eye(graph.num_features, dtype=torch.float64)
    torch.manual_seed(0)
    dropped = torch.stack([features(Y, 0.5) for _ in range(4000)])
    X = dense(graph)[1]
    assert torch.allclose(dropped.mean(0), X, atol=0.05)
    assert torch.equal(dropped[0], dropped[0].where(dropped[0] == 0, 2 * X))
    assert torch.equal(features.eval()(Y, 0.5), X)


@pytest.mark.parametrize("method", METHODS)
def test_opt_covers_the_first_layer_and_its_gradient_reaches_R(graph: Graph, method: str) -> None:
    opt = OPT(GCN(**graph.gives), method)
    first, last = opt.summary().rows
    assert (first.layer, first.d, first.n, first.method) == ("layers.0", 5, 16, method)
    assert (last.d, last.n, last.method) == (16, 3, "plain")
    before = opt.neurons()["layers.0"].clone()
    optimizer = opt.optimizer(lr=0.1)
    opt(graph.train.inputs).logsumexp(1).sum().backward()
    optimizer.step()
    assert not torch.equal(before, opt.neurons()["layers.0"])


def test_half_precision_and_memory(graph: Graph) -> None:
    network = GCN(**graph.gives)
    with torch.autocast("cpu", torch.bfloat16):
        low = network.float().eval()(graph.test.inputs)
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), network(graph.test.inputs), rtol=0.05, atol=0.02)
    config = from_arguments("dataset=graph", "model=gcn", "hardware=cpu")
    needed = memory_of_step(config, GraphFile().load(), torch.device("cpu"))
    assert needed is not None
    assert needed > 4 * 34 * 34


def composed(folder: Path, *arguments: str) -> Run:
    return identify(
        from_arguments(
            "dataset=graph",
            "model=gcn",
            "tracking=none",
            "hardware=cpu",
            "hardware.threads=1",
            "budget.steps=10",
            "log.every=1",
            f"output_dir={folder}",
            *arguments,
        )
    )


def start(run: Run) -> Any:
    return execute(run, Screen("none"), in_sweep=False, stop=StopRequest())


@pytest.mark.parametrize("method", METHODS)
def test_a_run_a_resumed_run_and_a_streamed_run_are_equal_to_the_bit(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = composed(tmp_path / "whole", f"method={method}")
    result = start(run)
    assert result.status == "finished"
    assert result.tested["accuracy"] == 100 - result.test_error
    streamed = composed(tmp_path / "streamed", f"method={method}", "hardware.images=streamed")
    assert start(streamed).status == "finished"
    resumed = composed(tmp_path / "resumed", f"method={method}")
    with monkeypatch.context() as patched:
        append = Record.append_metrics

        def append_and_ask(record: Record, row: dict[str, Any]) -> None:
            append(record, row)
            if row["step"] == 5:
                record.prune.touch()

        patched.setattr(Record, "append_metrics", append_and_ask)
        assert start(resumed).status == "pruned"
    assert start(resumed).status == "finished"
    for other in (streamed, resumed):
        assert rows(other) == rows(run)
        assert other.record.weights.read_bytes() == run.record.weights.read_bytes()


def test_a_record_is_evaluated_and_exported(tmp_path: Path, graph: Graph) -> None:
    run = composed(tmp_path, "method=cayley")
    result = start(run)
    trained = read(run.record.directory)
    assert evaluate(trained, run.config).numbers["error"] == result.test_error
    assert export(trained, "torch-export", tmp_path / "net.pt2") == 0
    assert export(trained, "safetensors", tmp_path / "net.safetensors") is None
    other = from_arguments("dataset=graph", f"dataset.root={tmp_path / 'graph.npz'}").dataset
    with pytest.raises(UserError, match="its nodes are not those that the network was trained for"):
        evaluate(trained, run.config.model_copy(update={"dataset": other}))


def test_another_graph_of_the_same_size(tmp_path: Path) -> None:
    """A record is not tested on it; a run that starts from its weights has its own graph."""
    random = np.random.default_rng(0)
    kept = {
        "labels": np.arange(12) % 3, "train": np.arange(6), "test": np.arange(6, 12),
        "features": random.random((12, 5)) + 0.1,
    }  # fmt: skip
    pairs = [np.stack([np.arange(12), (np.arange(12) + step) % 12]) for step in (1, 5)]
    for name, edges in zip(("one", "two"), pairs, strict=True):
        np.savez(tmp_path / f"{name}.npz", edges=edges, **kept)
    first, second = (f"dataset.root={tmp_path / name}.npz" for name in ("one", "two"))
    run = composed(tmp_path, first)
    start(run)
    other = from_arguments("dataset=graph", second).dataset
    with pytest.raises(UserError, match="its nodes are not those that the network was trained for"):
        evaluate(read(run.record.directory), run.config.model_copy(update={"dataset": other}))
    config = from_arguments(
        "dataset=graph", "model=gcn", "tracking=none", "hardware=cpu", "method=standard", second,
        f"model.weights={run.record.weights}",
    )  # fmt: skip
    data = GraphFile(f"{tmp_path}/two.npz").load()
    network = set_up(config, data).opt.network
    trained = load_file(run.record.weights)
    assert network.adjacency.indices.equal(GCN(**data.gives).adjacency.indices)
    assert not network.adjacency.indices.equal(trained["adjacency.indices"])
    assert network.layers[0].weight.equal(trained["layers.0.weight"])


def test_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = composed(tmp_path, "method=frame")
    start(run)
    difference = export(read(run.record.directory), "onnx", tmp_path / "net.onnx")
    assert difference is not None
    assert difference < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["opt_runner"])
    assert about["below"] == 34


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dataset=graph", "model=cnn6"], "suits gcn"),
        (["dataset=points", "model=gcn"], "suits pointnet"),
        (["dataset=digits", "model=gcn"], "suits cnn6, "),
        (["dataset=graph", "model=gcn", "augment.enabled=true"], "set augment.enabled=false"),
    ],
)
def test_a_network_that_does_not_suit_is_one_line_with_those_that_do(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    words = [*arguments, "tracking=none", "hardware=cpu", f"output_dir={tmp_path}"]
    with pytest.raises(UserError) as caught:
        start(identify(from_arguments(*words)))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
