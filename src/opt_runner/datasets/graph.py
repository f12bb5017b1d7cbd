"""One graph whose nodes are classified."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from opt_runner.datasets.data import Samples
from opt_runner.datasets.labelled import ClassTally, Labelled
from opt_runner.datasets.stored import read
from opt_runner.errors import UserError, first_line
from opt_runner.files import expanded, readable

Array = np.ndarray[Any, Any]

_FEATURES = ("feature_indptr", "feature_indices", "num_features")
_KEYS = ("edges", "labels", "train", "test")
# Of each club of the embedded graph, the labelled nodes that train.
_LABELLED = 2


@dataclass(frozen=True, eq=False)
class Graph(Labelled):
    """A graph, some of whose nodes train and others test.

    train, test: inputs are numbers of nodes, int64 (N,); targets are their classes.
    edges: int64 (2, E), each pair of nodes once and none with itself.
    feature_indptr, feature_indices, feature_values, num_features: the features of the nodes, a
        sparse matrix (nodes, num_features) kept by rows.
    validation: nodes that the source itself holds back.
    """

    edges: Tensor
    feature_indptr: Tensor
    feature_indices: Tensor
    feature_values: Tensor
    num_features: int
    validation: Samples | None = None

    samples: ClassVar[str] = "nodes"

    @property
    def nodes(self) -> int:
        return len(self.feature_indptr) - 1

    @property
    def below(self) -> int:
        return self.nodes

    @property
    def gives(self) -> dict[str, Any]:
        names = ("edges", "feature_indptr", "feature_indices", "feature_values", "num_features")
        return {"graph": {name: getattr(self, name) for name in names}, **super().gives}

    @property
    def evaluated_at_once(self) -> int:
        """Return the number of all nodes: a network computes the whole graph for any of them."""
        return self.nodes

    def tally(self, device: torch.device) -> "NodeTally":
        return NodeTally(device)

    def hold_back(self, share: float, seed: int) -> tuple[Self, Samples]:
        """Return the data and the source's own validation nodes, all of them.

        Without such nodes a share of the training nodes is held back.
        """
        if self.validation is None:
            return super().hold_back(share, seed)
        return self, self.validation


class NodeTally(ClassTally):
    """Errors, likelihood and calibration, and the accuracy, by which such networks are known."""

    def numbers(self) -> dict[str, float]:
        found = super().numbers()
        return {**found, "accuracy": 100 - found["error"]}


class GraphFile:
    """A graph in a file of numpy arrays (.npz), or Zachary's karate club.

    The file holds:
        edges: (2, E), pairs of nodes; direction, repetition and loops do not count.
        feature_indptr (N + 1,), feature_indices (nonzeros,), num_features: the features of N nodes
            as a sparse matrix by rows; feature_values (nonzeros,): 1 if left out. Or
        features: (N, num_features), dense.
        labels: (N,), from 0 up; -1 for a node without a label.
        train, test, and validation if there is one: numbers of nodes, or masks (N,).

    root: the file; None: the club, whose members split into two. Each member is known by itself
        alone (one-hot); two of each side train, the others test. Source: W. Zachary, "An
        Information Flow Model for Conflict and Fission in Small Groups" (1977), as in networkx.
    normalise: divide the features of a node by the sum of their absolute values, as Kipf and
        Welling do.
    """

    content = Graph

    def __init__(self, root: str | None = None, normalise: bool = True) -> None:
        self.root = Path(expanded(root)) if root is not None else None
        self.normalise = normalise

    def check(self) -> None:
        _ = self._graph

    def fingerprint(self) -> str:
        """Return a hash of the file's content and of the options."""
        content = b"karate club" if self.root is None else self._bytes
        return hashlib.sha256(content + bytes([self.normalise])).hexdigest()[:16]

    def load(self) -> Graph:
        return self._graph

    @cached_property
    def _bytes(self) -> bytes:
        assert self.root is not None
        with readable(f"dataset.root={self.root}"):
            if not self.root.exists():
                raise UserError(
                    f"dataset.root={self.root} does not exist: a graph in a .npz file is expected"
                )
            return self.root.read_bytes()

    @cached_property
    def _graph(self) -> Graph:
        arrays = _karate_club() if self.root is None else _arrays(self.root, self._bytes)
        try:
            graph = _graph_of(arrays, self.normalise)
        except UserError as error:
            raise UserError(f"dataset.root={self.root}: {error}") from error
        return replace(graph, classes=["Mr. Hi", "Officer"]) if self.root is None else graph


def _karate_club() -> dict[str, Array]:
    import networkx  # here, because it takes a while

    graph = networkx.karate_club_graph()
    members = np.arange(len(graph))
    labels = np.array([graph.nodes[member]["club"] == "Officer" for member in members], dtype=int)
    # The two members of most friends: the leaders, and the nearest to them.
    order = np.argsort([-graph.degree[member] for member in members], kind="stable")
    train = np.concatenate([order[labels[order] == side][:_LABELLED] for side in (0, 1)])
    return {
        "edges": np.array(graph.edges).T,
        "features": np.eye(len(graph)),
        "labels": labels,
        "train": train,
        "test": np.setdiff1d(members, train),
    }


def _arrays(path: Path, content: bytes) -> dict[str, Array]:
    """Return the arrays of a .npz file. Raises UserError if it is none."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            return dict(found)
        reason = "it is a .npy file"
    except Exception as error:  # of a damaged file numpy and zipfile raise anything
        reason = first_line(error)
    raise UserError(f"dataset.root={path} is no .npz file of plain numpy arrays: {reason}")


def _graph_of(arrays: Mapping[str, Array], normalise: bool) -> Graph:
    """Return the graph of the arrays of `GraphFile`. Raises UserError if they do not fit."""
    features = ("features",) if "features" in arrays else _FEATURES
    if missing := [key for key in (*_KEYS, *features) if key not in arrays]:
        raise UserError(
            f"{', '.join(missing)} missing: edges, labels, train, test and features (dense), or "
            f"{', '.join(_FEATURES)} (sparse) are needed; it has {', '.join(arrays) or 'nothing'}"
        )
    labels = _integers(arrays, "labels", (None,))
    nodes, num_classes = len(labels), int(labels.max(initial=-1)) + 1
    edges = np.sort(_numbered(arrays, "edges", (2, None), nodes), axis=0)
    edges = np.unique(edges[:, edges[0] != edges[1]], axis=1)
    indptr, columns, values, width = _features(arrays, nodes)
    if normalise:
        rows = np.repeat(np.arange(nodes), np.diff(indptr))
        values = values / np.maximum(np.bincount(rows, abs(values), nodes), 1e-30)[rows]

    def samples(key: str) -> Samples:
        chosen = arrays[key]
        if chosen.dtype == bool and chosen.shape == labels.shape:
            chosen = chosen.nonzero()[0]
        chosen = _numbered({key: chosen}, key, (None,), nodes)
        if len(np.unique(chosen)) < len(chosen):
            raise UserError(f"{key}: nodes are repeated; a mask must be of the type bool")
        if len(without := chosen[labels[chosen] < 0]):
            raise UserError(f"{key}: node {without[0]} has no label, {labels[without[0]]}")
        return Samples(torch.from_numpy(chosen), torch.from_numpy(labels[chosen]))

    halves = {key: samples(key) for key in ("train", "validation", "test") if key in arrays}
    for key, other in combinations(halves, 2):
        here, there = read(halves[key].inputs), read(halves[other].inputs)
        if len(both := here[torch.isin(here, there)]):
            raise UserError(f"{key}: node {both[0]} is in {other} as well")
    test = halves.pop("test")
    return Graph(
        halves["train"],
        test,
        classes=[str(number) for number in range(num_classes)],
        edges=torch.from_numpy(edges),
        feature_indptr=torch.from_numpy(indptr),
        feature_indices=torch.from_numpy(columns),
        feature_values=torch.from_numpy(values),
        num_features=width,
        validation=halves.get("validation") or None,
    )


def _features(arrays: Mapping[str, Array], nodes: int) -> tuple[Array, Array, Array, int]:
    """Return indptr, column numbers, values and the number of columns of the sparse features."""
    if "features" in arrays:
        dense = _shaped(arrays, "features", (nodes, None))
        rows, columns = dense.nonzero()
        indptr = np.searchsorted(rows, np.arange(nodes + 1))
        values, width = dense[rows, columns], dense.shape[1]
    else:
        width = int(_integers(arrays, "num_features", ()))
        columns = _numbered(arrays, "feature_indices", (None,), width)
        indptr = _integers(arrays, "feature_indptr", (nodes + 1,))
        if indptr[0] != 0 or indptr[-1] != len(columns) or (np.diff(indptr) < 0).any():
            raise UserError(
                f"feature_indptr must rise from 0 to {len(columns)}, the number of feature_indices"
            )
        ones = {"feature_values": np.ones(len(columns))}
        values = _shaped({**ones, **arrays}, "feature_values", (len(columns),))
    if width < 1:
        raise UserError("the nodes need a feature at least")
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise UserError("the values of the features must be finite real numbers")
    return indptr.astype(np.int64), columns.astype(np.int64), values.astype(np.float64), width


def _shaped(arrays: Mapping[str, Array], key: str, shape: tuple[int | None, ...]) -> Array:
    """Return an array; raise UserError for another shape, where None is any size."""
    found = arrays[key]
    if found.ndim != len(shape) or any(
        size not in (None, own) for size, own in zip(shape, found.shape, strict=True)
    ):
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise UserError(f"{key} must have the shape ({sizes}), got {found.shape}")
    return found


def _integers(arrays: Mapping[str, Array], key: str, shape: tuple[int | None, ...]) -> Array:
    found = _shaped(arrays, key, shape)
    if found.dtype.kind not in "iu":
        raise UserError(f"{key} must be integers, got {found.dtype}")
    return found.astype(np.int64)


def _numbered(
    arrays: Mapping[str, Array], key: str, shape: tuple[int | None, ...], count: int
) -> Array:
    """Return integers from 0 to count - 1; raise UserError for others."""
    found = _integers(arrays, key, shape)
    outside = found[(found < 0) | (found >= count)]
    if outside.size:
        raise UserError(f"{key}: {outside[0]} is out of range: 0 to {count - 1} are allowed")
    return found
