"""Graphs in files: what is read, how it is split, and what is refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opt_runner.datasets import Graph, GraphFile
from opt_runner.errors import UserError


def arrays() -> dict[str, Any]:
    """Six nodes with three features, two classes; node 5 has no label."""
    return {
        "edges": np.array([[0, 1, 1, 2, 3, 3], [1, 0, 2, 3, 4, 3]]),
        "feature_indptr": np.array([0, 2, 3, 3, 4, 5, 6]),
        "feature_indices": np.array([0, 2, 1, 0, 1, 2]),
        "num_features": np.array(3),
        "labels": np.array([0, 1, 0, 1, 0, -1], dtype=np.int8),
        "train": np.array([0, 1]),
        "validation": np.array([2]),
        "test": np.array([3, 4]),
    }


def loaded(folder: Path, content: dict[str, Any], **options: Any) -> Graph:
    np.savez(folder / "graph.npz", **content)
    return GraphFile(str(folder / "graph.npz"), **options).load()


def dense(graph: Graph) -> torch.Tensor:
    return torch.sparse_csr_tensor(
        graph.feature_indptr, graph.feature_indices, graph.feature_values,
        (graph.nodes, graph.num_features),
    ).to_dense()  # fmt: skip


def test_a_file(tmp_path: Path) -> None:
    graph = loaded(tmp_path, arrays())
    # Each pair once, and no node with itself.
    assert graph.edges.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]
    assert (graph.nodes, graph.below, graph.num_features, graph.num_classes) == (6, 6, 3, 2)
    assert graph.train.inputs.tolist() == [0, 1]
    assert graph.test.targets.tolist() == [1, 0]
    expected = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert torch.equal(dense(graph), expected.double())


def test_dense_features_and_masks_are_the_same_graph(tmp_path: Path) -> None:
    sparse = loaded(tmp_path, arrays(), normalise=False)
    content = arrays()
    for key in ("feature_indptr", "feature_indices", "num_features"):
        del content[key]
    content["features"] = dense(sparse).numpy()
    for key in ("train", "validation", "test"):
        content[key] = np.isin(np.arange(6), content[key])
    other = loaded(tmp_path, content, normalise=False)
    assert torch.equal(dense(other), dense(sparse))
    assert torch.equal(other.test.inputs, sparse.test.inputs)
    assert torch.equal(other.hold_back(0.1, 0)[1].inputs, sparse.hold_back(0.1, 0)[1].inputs)


def test_validation_takes_the_nodes_of_the_file_else_a_share_of_the_training_nodes(
    tmp_path: Path,
) -> None:
    graph = loaded(tmp_path, arrays())
    kept, held = graph.hold_back(0.1, seed=3)
    assert held.inputs.tolist() == [2]
    assert kept.train.inputs.tolist() == [0, 1]
    content = arrays()
    content["train"] = np.array([0, 1, 2])
    content["validation"] = np.array([], dtype=int)
    kept, held = loaded(tmp_path, content).hold_back(0.5, seed=3)
    assert sorted(held.inputs.tolist() + kept.train.inputs.tolist()) == [0, 1, 2]
    assert len(held) == 1


def test_the_karate_club() -> None:
    club = GraphFile().load()
    assert (club.nodes, club.edges.shape[1], len(club.train), len(club.test)) == (34, 78, 4, 30)
    assert sorted(club.train.inputs.tolist()) == [0, 2, 32, 33]  # the leaders are 0 and 33
    assert club.train.targets.bincount().tolist() == [2, 2]
    assert torch.equal(dense(club), torch.eye(34).double())


def test_the_fingerprint_is_of_content_and_options(tmp_path: Path) -> None:
    loaded(tmp_path, arrays())
    path = tmp_path / "graph.npz"
    path.rename(tmp_path / "moved.npz")
    first = GraphFile(str(tmp_path / "moved.npz")).fingerprint()
    assert GraphFile(str(tmp_path / "moved.npz"), normalise=False).fingerprint() != first
    loaded(tmp_path, arrays() | {"train": np.array([0, 1, 2]), "validation": np.array([], int)})
    assert GraphFile(str(path)).fingerprint() != first


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"labels": None}, "labels missing"),
        ({"num_features": None}, "num_features missing"),
        ({"edges": np.zeros((3, 2), int)}, "edges must have the shape (2, any), got (3, 2)"),
        ({"edges": np.array([[0], [6]])}, "edges: 6 is out of range: 0 to 5"),
        ({"edges": np.zeros((2, 1))}, "edges must be integers, got float64"),
        ({"feature_indices": np.array([0, 3, 1, 0, 1, 2])}, "feature_indices: 3 is out of range"),
        ({"feature_indptr": np.array([0, 2, 3, 3, 4, 5, 5])}, "feature_indptr must rise from 0"),
        ({"feature_values": np.full(6, np.nan)}, "must be finite"),
        ({"features": np.zeros((5, 3))}, "features must have the shape (6, any), got (5, 3)"),
        ({"features": np.zeros((6, 0))}, "a feature at least"),
        ({"train": np.array([0, -1])}, "train: -1 is out of range"),
        ({"train": np.array([5])}, "train: node 5 has no label, -1"),
        ({"train": np.array([True, False])}, "train must be integers, got bool"),
        ({"train": np.array([0, 3])}, "train: node 3 is in test as well"),
        ({"train": np.array([0, 1, 0])}, "train: nodes are repeated; a mask must be of the type"),
        ({"train": np.array([0]), "validation": np.array([0])}, "node 0 is in validation as well"),
        ({"train": np.array([], int)}, "the training set is empty"),
        ({"labels": np.array([0, 0, 0, 0, 0, 0])}, "1 classes are nothing to learn"),
        ({"labels": np.array([{}] * 6)}, "Object arrays cannot be loaded"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    content = {key: value for key, value in (arrays() | changed).items() if value is not None}
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, content)
    assert str(caught.value).startswith(f"dataset.root={tmp_path / 'graph.npz'}")
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_with_an_altered_byte_is_a_graph_or_refused(tmp_path: Path) -> None:
    loaded(tmp_path, arrays())
    path = tmp_path / "graph.npz"
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.permutation(len(whole))[:400]:
        altered = bytearray(whole)
        altered[place] ^= 1 << random.integers(8)
        path.write_bytes(altered)
        with suppress(UserError):
            GraphFile(str(path)).load()


def test_what_is_no_npz_file_is_one_line(tmp_path: Path) -> None:
    for content in (b"", b"no zip", b"PK\x03\x04 cut"):
        path = tmp_path / "graph.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is no \.npz file"):
            GraphFile(str(path)).check()
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"it is a \.npy file"):
        GraphFile(str(tmp_path / "one.npy")).check()
    with pytest.raises(UserError, match="does not exist"):
        GraphFile(str(tmp_path / "nowhere.npz")).check()
    with pytest.raises(UserError, match="cannot be read"):
        GraphFile(str(tmp_path)).check()
