"""A graph convolutional network that classifies the nodes of one graph."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding_bag

from opt_runner.networks.shared import Dropped, Widths, gaussian_


class GCN(nn.Module):
    """Layers H' = A_hat (H W) with ReLU between them, the last of which gives the logits.

    A_hat = D^-1/2 (A + I) D^-1/2, with D the degrees of A + I. Each layer has dropout on its input
    and no bias; the first one's input are the features of the nodes. Source: Kipf and Welling,
    "Semi-Supervised Classification with Graph Convolutional Networks" (ICLR 2017). W is drawn from
    N(0, 2/d) and not as Glorot and Bengio do; for 1,433 features and 16 neurons both are alike.

    Input: numbers of nodes, int64 (B,); output (B, num_classes). Every pass computes the whole
    graph, which is in buffers.

    graph: `edges`, int64 (2, E), each pair of nodes once and none with itself; the features as a
        sparse matrix (N, num_features): `feature_indptr`, int64 (N + 1,), `feature_indices` and
        `feature_values` (nonzeros,).
    widths: the neurons of all layers but the last; two widths make three layers.
    """

    def __init__(
        self,
        graph: Mapping[str, Any],
        num_classes: int,
        widths: Widths = (16,),
        dropout: Dropped = 0.5,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        device = torch.get_default_device()  # `meta` where only shapes are computed
        edges, indptr, columns, values = (
            graph[key].to(device)
            for key in ("edges", "feature_indptr", "feature_indices", "feature_values")
        )
        nodes = len(indptr) - 1
        rows = torch.searchsorted(indptr, torch.arange(len(columns)), right=True) - 1
        self.features = Sparse(rows, columns, values, (nodes, graph["num_features"]))
        itself = torch.arange(nodes)
        rows, columns = torch.cat([edges, edges.flip(0), torch.stack([itself, itself])], 1)
        degree = torch.zeros(nodes, dtype=torch.float64).index_add(
            0, rows, torch.ones_like(rows, dtype=torch.float64)
        )
        scale = degree.rsqrt()
        self.adjacency = Sparse(rows, columns, scale[rows] * scale[columns], (nodes, nodes))
        sizes = [graph["num_features"], *widths, num_classes]
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))
        gaussian_(self)

    def forward(self, nodes: Tensor) -> Tensor:
        first, *others = self.layers
        H = self.adjacency(self.features(first.weight.T, self.dropout))
        for layer in others:
            H = self.adjacency(layer(dropout(H.relu(), self.dropout, self.training)))
        # Not H[nodes], whose gradient several threads add up in any order.
        return H.index_select(0, nodes)


class Sparse(nn.Module):
    """A constant sparse matrix X (a, b): X Y for dense Y (b, n).

    It and its transpose are kept by rows, in buffers, so that both passes are sums over rows:
    faster than the gradient of `torch.sparse.mm`, always in the same order, also on a GPU, and
    they run on the device `meta` and in ONNX.
    """

    values: Tensor

    def __init__(
        self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]
    ) -> None:
        super().__init__()
        by_row, by_column = rows.argsort(stable=True), columns.argsort(stable=True)
        # float64, because the type of a run is set later, by `to`.
        self.register_buffer("values", values[by_row].double())
        self.register_buffer("indptr", _indptr(rows[by_row], shape[0]))
        self.register_buffer("indices", columns[by_row])
        self.register_buffer("indptr_t", _indptr(columns[by_column], shape[1]))
        self.register_buffer("indices_t", rows[by_column])
        # Of the transpose's values among `values`.
        self.register_buffer("order_t", by_row.argsort()[by_column])

    def forward(self, Y: Tensor, share: float = 0.0) -> Tensor:
        """Return X Y; in training with dropout of a share of X's values."""
        values = dropout(self.values.to(Y.dtype), share, self.training)
        transposed = self.indptr_t, self.indices_t, self.order_t
        return _Product.apply(Y, values, self.indptr, self.indices, *transposed)


class _Product(torch.autograd.Function):
    """X Y with the gradient X^T G; X itself does not train."""

    @staticmethod
    def forward(
        ctx: Any, Y: Tensor, values: Tensor, indptr: Tensor, indices: Tensor, *transposed: Tensor
    ) -> Tensor:
        ctx.save_for_backward(values, *transposed)
        return _row_sums(indptr, indices, values, Y)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        values, indptr, indices, order = ctx.saved_tensors
        return _row_sums(indptr, indices, values[order], G), *[None] * 6


def _row_sums(indptr: Tensor, indices: Tensor, values: Tensor, Y: Tensor) -> Tensor:
    """Return sum_j values_j Y[indices_j] of each row i, over j from indptr_i to indptr_(i+1)."""
    return embedding_bag(
        indices,
        Y.contiguous(),
        indptr,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=True,
    )


def _indptr(sorted_rows: Tensor, count: int) -> Tensor:
    return torch.searchsorted(sorted_rows, torch.arange(count + 1))
