"""The rotations: what trains in OPT. They map frozen W to effective weights Q(R) W."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from opt_runner.methods import Method


class LayerSize(NamedTuple):
    """d x n of a layer's W, and how many of its d rows a rotation acts on."""

    d: int
    n: int
    rows: int


def neurons(weight: Tensor) -> Tensor:
    """W (d, n) of a weight (n, c_in, *kernel): neurons are columns, d runs with c_in fastest."""
    return weight.permute(*range(2, weight.ndim), 1, 0).reshape(-1, weight.shape[0])


def as_weight(V: Tensor, like: Tensor) -> Tensor:
    """The inverse of `neurons`: V (d, n) in the shape and the memory layout of weight `like`."""
    n, c, *kernel = like.shape
    weight = V.reshape(*kernel, c, n).permute(-1, -2, *range(len(kernel)))
    channels_last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return weight.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


class RotationGroup(nn.Module):
    """The k layers of one size: one stack R (k, s, s), mapped in one batched call.

    `rows` (k, s) holds the rows of W that R acts on where that is not all of them (s < d).
    """

    rows: Tensor | None

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        rows: int,
        method: Method,
        generator: torch.Generator | None = None,
    ) -> None:
        """weights: those of the group's layers by name; rows: on how many rows of W R acts."""
        super().__init__()
        self.names = list(weights)
        self.method = method
        W = self.stack(weights)
        self.size = LayerSize(W.shape[1], W.shape[2], rows)
        self.row_seed = int(torch.randint(2**62, (), generator=generator))
        self.round = 0
        whole = rows == self.size.d
        self.register_buffer("rows", None if whole else self._draw_rows().to(W.device))
        self.R = nn.Parameter(self._start(W, generator))

    def get_extra_state(self) -> dict[str, int]:
        return {"row_seed": self.row_seed, "round": self.round}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.row_seed, self.round = state["row_seed"], state["round"]

    def extra_repr(self) -> str:
        k = len(self.names)
        return f"{k} x R {self.size.rows} x {self.size.rows} on W {self.size.d} x {self.size.n}"

    def forward(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Effective weights {name: Q(R) W} of this group's layers from W = weights[name]."""
        W = self.stack(weights)
        return self.effective(self.method.rotate(self.R, self.acted_on(W)), W, weights)

    def stack(self, weights: Mapping[str, Tensor]) -> Tensor:
        """W of this group's layers, (k, d, n)."""
        return torch.stack([neurons(weights[name].detach()) for name in self.names])

    def acted_on(self, W: Tensor) -> Tensor:
        """The rows of W (k, d, n) that R acts on, (k, s, n)."""
        return W if self.rows is None else W.gather(1, self._index())

    def effective(self, V: Tensor, W: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Effective weights from V = Q(R) W of the rows that R acts on, like `weights`."""
        if self.rows is not None:
            V = W.scatter(1, self._index(), V)
        return {name: as_weight(v, weights[name]) for name, v in zip(self.names, V, strict=True)}

    def penalty(self) -> Tensor | None:
        return self.method.penalty(self.R)

    @torch.no_grad()
    def orthogonality_error(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Largest entry of |Q^T Q - I| of each layer, (k,)."""
        return self.method.orthogonality_error(self.R, self.acted_on(self.stack(weights)))

    @torch.no_grad()
    def start_round(self, weights: Mapping[str, Tensor]) -> None:
        """Write the rotated rows into W for good, draw new ones and start R again."""
        for name, V in self(weights).items():
            weights[name].copy_(V)
        self.round += 1
        if self.rows is not None:
            self.rows.copy_(self._draw_rows())
        self.R.copy_(self._start(self.stack(weights), self._generator()))

    def _index(self) -> Tensor:
        assert self.rows is not None
        return self.rows.unsqueeze(-1).expand(-1, -1, self.size.n)

    def _start(self, W: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.stack([self.method.initial(w, generator) for w in self.acted_on(W)])

    def _draw_rows(self) -> Tensor:
        generator = self._generator()
        k, (d, _, s) = len(self.names), self.size
        return torch.stack([torch.randperm(d, generator=generator)[:s] for _ in range(k)])

    def _generator(self) -> torch.Generator:
        # From the seed and the round alone: a resumed training draws what an uncut one draws.
        seed = (self.row_seed + 0x9E3779B97F4A7C15 * self.round) % 2**63
        return torch.Generator().manual_seed(seed)
