"""POET: W is turned on both sides, by blocks of coordinates drawn anew every round."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.geometry import orthogonality_error
from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Tensors, method_options
from opt_runner.methods.maps.blocks import act, cayley_blocks, divisor_near, neumann_blocks
from opt_runner.methods.neurons import Neurons, prepared
from opt_runner.methods.rotation import Rotation
from opt_runner.methods.rounds import Count, InRounds


@method_options
class ReparameterizedTraining(InRounds):
    """V = Q(R) W Q(P): the spectrum of W stays; the energy does not, because P mixes neurons.

    Each side has a random order of its coordinates and, along that, blocks of b x b: R is
    (d/b, b, b) and P (n/b, b, b), both from 0. At the end of a round W <- Q(R) W Q(P) for good,
    new orders are drawn, R and P start again and their momentum is cleared.

    block: b, or on each side the divisor nearest to it.
    terms: None for exact Cayley transforms, or the terms of their series (I + A)(I + A + ... +
        A^terms), as published with 3. The series is not orthogonal, and every round adds to that.
    neurons: how W starts; see `Rotation`.

    Measured: |Q^T Q - I| of the round that is on, and `spectrum_change`, the largest change of a
    singular value of W since the start, as a share of the largest of them: what the series costs.

    Source: Qiu et al., "Reparameterized LLM training via orthogonal equivalence transformation"
    (arXiv 2506.08001), block-stochastic form; code github.com/Sphere-AI-Lab/poet. Departs: exact
    transforms by default; trained by SGD, published by AdamW with a round of 400 steps.
    """

    block: Annotated[int, Field(gt=1, le=100_000)] = 64
    terms: Annotated[int, Field(ge=0, le=100)] | None = None
    rounds: Count = 100
    neurons: Neurons = "drawn"

    family = "maps"
    colour = "#D24BA0"
    search = Rotation.search

    def initial_weight(self, layer: Layer, W: Tensor, generator: MaybeGenerator) -> Tensor:
        return prepared(W, self.neurons)

    def draw(self, layer: Layer, W: Tensor, generator: torch.Generator) -> Tensors:
        """Return an order of the rows, an order of the columns, and the singular values of W."""
        orders = self.redraw(layer, W, generator)
        return {**orders, "spectrum": torch.linalg.svdvals(W)}

    def redraw(self, layer: Layer, W: Tensor, generator: torch.Generator) -> Tensors:
        return {
            "rows": torch.randperm(layer.d, generator=generator),
            "columns": torch.randperm(layer.n, generator=generator),
        }

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        of_rows, of_columns = (divisor_near(size, self.block) for size in (layer.d, layer.n))
        return {
            "R": torch.zeros(layer.d // of_rows, of_rows, of_rows),
            "P": torch.zeros(layer.n // of_columns, of_columns, of_columns),
        }

    def weight(
        self, W: Tensor, R: Tensor, P: Tensor, rows: Tensor, columns: Tensor, spectrum: Tensor
    ) -> Tensor:
        turned = _among(rows, self.rotation(R), W)
        return _among(columns, self.rotation(P), turned.mT).mT

    def rotation(self, R: Tensor) -> Tensor:
        """Return Q of each block."""
        return cayley_blocks(R) if self.terms is None else neumann_blocks(R, self.terms)

    def measure(
        self, W: Tensor, V: Tensor, R: Tensor, P: Tensor, spectrum: Tensor, **orders: Any
    ) -> Tensors:
        errors = [orthogonality_error(self.rotation(side)).amax(-1) for side in (R, P)]
        change = (torch.linalg.svdvals(V) - spectrum).abs().amax(-1) / spectrum.amax(-1)
        return {"orthogonality_error": torch.maximum(*errors), "spectrum_change": change}


def _among(order: Tensor, Q: Tensor, W: Tensor) -> Tensor:
    """Return W (k, d, n) with its rows, in the given order (k, d), turned by Q (k, r, b, b)."""
    indices = order.unsqueeze(-1).expand_as(W)
    turned = act(Q, W.gather(1, indices))
    return torch.empty_like(turned).scatter(1, indices, turned)
