"""Pion: an optimizer that turns W on one or both sides; with the side `in` it trains OPT's set."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import Tensors, method_options, searched
from opt_runner.methods.kernels.cayley_transform import cayley_transform
from opt_runner.methods.kernels.stiefel_sgd import StiefelSGD
from opt_runner.methods.moved import MovedV

Side = Literal["in", "out", "both", "alternate"]
_RMS = 0.2  # a step of lr 1 moves the entries of V by this, root mean square


class PionSGD(StiefelSGD):
    """SGD, but a parameter group with `retract` turns its stacks V (k, d, n), G = dL/dV.

        X_in = V G^T - G V^T (d, d),  X_out = G^T V - V^T G (n, n)
        M <- b1 M + (1 - b1) X;  A = M, or M / (sqrt(v) + 1e-8) with v <- b2 v + (1 - b2) X^2
        a = 0.2 lr sqrt(d n) / (||A_in V + V A_out||_F + 1e-12)
        V <- E(a A_in) V E(a A_out)

    for the sides of the step alone. b1 is the group's `momentum`, b2 its `second_moment` or None.
    E(A) = I + A + A^2 / 2, or with the group's `exact` the Cayley transform, which keeps the
    spectrum of V to rounding.
    """

    def move(self, X: Tensor, G: Tensor, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        state["steps"] = state.get("steps", 0) + 1
        sides = {"in", "out"} if group["side"] == "both" else {group["side"]}
        if group["side"] == "alternate":
            sides = {"in" if state["steps"] % 2 else "out"}
        A_in = self._averaged("in", _skew(X @ G.mT), state, group) if "in" in sides else None
        A_out = self._averaged("out", _skew(G.mT @ X), state, group) if "out" in sides else None
        moved = torch.zeros_like(X)
        if A_in is not None:
            moved += A_in @ X
        if A_out is not None:
            moved += X @ A_out
        wanted = _RMS * group["lr"] * (X.shape[-2] * X.shape[-1]) ** 0.5
        a = wanted / (torch.linalg.matrix_norm(moved, keepdim=True) + 1e-12)
        turn = cayley_transform if group["exact"] else _series
        V = X if A_in is None else turn(a * A_in, X)
        X.copy_(V if A_out is None else turn(-a * A_out, V.mT).mT)

    def _averaged(
        self, side: str, X: Tensor, state: dict[str, Any], group: Mapping[str, Any]
    ) -> Tensor:
        """Return the side's A, with X taken into its averages."""
        mean = state.setdefault(f"{side}_mean", torch.zeros_like(X))
        mean.lerp_(X, 1 - group["momentum"])
        if group["second_moment"] is None:
            return mean
        square = state.setdefault(f"{side}_square", torch.zeros_like(X))
        square.lerp_(X * X, 1 - group["second_moment"])
        return mean / (square.sqrt() + 1e-8)


def _skew(X: Tensor) -> Tensor:
    return X - X.mT


def _series(A: Tensor, X: Tensor) -> Tensor:
    """Return (I + A + A^2 / 2) X."""
    AX = A @ X
    return X + AX + A @ AX / 2


@method_options
class Pion(MovedV):
    """V trains, turned on the side of its inputs, of its outputs, or on both.

    side: `in` turns V as every OPT variant does: angles between neurons stay. `out` mixes neurons;
        `both` is the published default; `alternate` takes one side a step, `in` first.
    exact: Cayley transforms, which keep the singular values to rounding; else the published series
        of degree 2, whose drift `spectrum_change` shows.
    second_moment: decay of the squares that A is divided by, 0.999 as published; None: no division.
    rotation_lr: lr 1 moves the entries of V by 0.2 RMS per step; published 1e-4 for language models
        of 1.3 billion parameters.

    Measured: `spectrum_change`, the largest change of a singular value since the start, as a share
    of the largest of them.

    Source: Shi et al. (arXiv 2605.12492), code github.com/Sphere-AI-Lab/pion at 3946a37. Departs:
    exact transforms by default; kernels of convolutions are matrices (d, n) as for every method
    here; momentum is the recipe's (0.9, as published).
    """

    side: Side = "both"
    exact: bool = True
    second_moment: Annotated[float, Field(gt=0, lt=1)] | None = None

    family = "spectrum"
    colour = "#2B6CB0"
    optimizer_class = PionSGD

    def turns(self, layer: Layer) -> bool:
        return self.side != "in" or layer.d > 1

    group_keys = ("side", "exact", "second_moment")
    search = searched(rotation_lr="tag(log,interval(0.002,0.2))")

    def draw(self, layer: Layer, W: Tensor, generator: torch.Generator) -> Tensors:
        return {"spectrum": torch.linalg.svdvals(W)}

    def measure(self, W: Tensor, V: Tensor, spectrum: Tensor, **others: Any) -> Tensors:
        change = (torch.linalg.svdvals(V) - spectrum).abs().amax(-1) / spectrum.amax(-1)
        return {"spectrum_change": change}
