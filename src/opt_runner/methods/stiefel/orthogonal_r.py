"""What the methods share in which R itself is the rotation."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.geometry import orthogonality_error
from opt_runner.layers import Layer
from opt_runner.methods.base import Coefficient, MaybeGenerator, Options, Tensors, method_options
from opt_runner.methods.moved import Moved
from opt_runner.methods.rotation import SquareRotation, Start


@method_options
class OrthogonalR(Moved, SquareRotation):
    """V = R W, R orthogonal: it starts so and a `StiefelSGD` keeps it so.

    Where n < d, V itself is what trains, under the name R as well: R is never built. Not so where
    W trains too.

    rotation_lr: learning rate of R; rotation_factor: its factor at every milestone.
    plain_weight_decay_scale: L2 of all other weights is scaled by this, as in OPT's reference.
    """

    start: Start = "identity"
    rotation_factor: Annotated[float, Field(gt=0, le=1)] = 0.2
    plain_weight_decay_scale: Coefficient = 0.1

    def __post_init__(self) -> None:
        if self.start == "normal":
            raise ValueError("R is kept orthogonal, so start must be 'identity' or 'orthogonal'")

    def trains_V(self, W: Tensor) -> bool:
        """Return True if V trains, not R."""
        return W.shape[-1] < W.shape[-2] and not self.train_w

    def copies(self, W: Tensor) -> bool:
        return self.trains_V(W)

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        # Under one name: a stack has the one or the other, of different shapes.
        if self.trains_V(W) and self.start == "identity":
            return {"R": W.clone()}
        R = super().init(layer, W, generator)["R"]
        return {"R": R.to(W) @ W if self.trains_V(W) else R}

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return R if self.trains_V(W) else R @ W

    def measure(self, W: Tensor, V: Tensor, R: Tensor, **others: Any) -> Tensors:
        """Return the error of Q, or where V trains the largest change of w_i . w_j.

        For unit neurons that is |w_i^T (Q^T Q - I) w_j|, their own lengths included.
        """
        if not self.trains_V(W):
            return super().measure(W, V, R)
        lengths = torch.linalg.vector_norm(W, dim=-2, keepdim=True)
        lengths = torch.where(lengths > 0, lengths, 1.0)  # a neuron of zeros stays one
        V, W = V / lengths, W / lengths
        return {"orthogonality_error": (V.mT @ V - W.mT @ W).abs().amax((-2, -1))}

    def optimizer_options(self, tensor: str | None, lr: float, weight_decay: float) -> Options:
        if tensor is None:
            weight_decay *= self.plain_weight_decay_scale
        return super().optimizer_options(tensor, lr, weight_decay)


@method_options
class OrthonormalU(OrthogonalR):
    """V = U S where n < d, U (d, n) with orthonormal columns: S = (W^T W)^(1/2) stays.

    U S is the polar decomposition of W, by its singular values: W may have dependent columns. U
    trains under the name R, as R (d, d) does where n >= d.
    """

    family = "manifold"

    def draw(self, layer: Layer, W: Tensor, generator: torch.Generator) -> Tensors:
        if not self.trains_V(W):
            return {}
        _, lengths, Yt = torch.linalg.svd(W, full_matrices=False)
        return {"S": Yt.mT * lengths @ Yt}

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        if not self.trains_V(W):
            return super().init(layer, W, generator)
        X, _, Yt = torch.linalg.svd(W, full_matrices=False)
        return super().init(layer, X @ Yt, generator)

    def weight(self, W: Tensor, R: Tensor, S: Tensor | None = None) -> Tensor:
        return R @ (W if S is None else S)

    def measure(self, W: Tensor, V: Tensor, R: Tensor, **others: Any) -> Tensors:
        """Return the largest entry of |U^T U - I|; where R (d, d) trains, U is R."""
        return {"orthogonality_error": orthogonality_error(R)}


@method_options
class SpectralU(OrthonormalU):
    """V = U S, see `OrthonormalU`, or V = U alone, for steepest descent under the spectral norm.

    spectrum: `kept` keeps S, and with it lengths of neurons and angles between them, as OPT does.
        `ones` sets S = I, as published: V is an orthonormal matrix (d, n) that starts as the polar
        factor of W, and trains as its transpose where n > d.
    """

    spectrum: Literal["kept", "ones"] = "kept"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spectrum == "ones" and self.train_w:
            raise ValueError("spectrum=ones has no W that could train: train_w must be false")

    @property
    def replaces_W(self) -> bool:
        return self.spectrum == "ones"

    def draw(self, layer: Layer, W: Tensor, generator: torch.Generator) -> Tensors:
        return super().draw(layer, W, generator) if self.spectrum == "kept" else {}

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        if self.spectrum == "kept":
            return super().init(layer, W, generator, **fixed)
        X, _, Yt = torch.linalg.svd(W, full_matrices=False)
        V = X @ Yt  # whole, also where W has dependent columns
        return {"R": (V if layer.n <= layer.d else V.mT).contiguous()}

    def weight(self, W: Tensor, R: Tensor, S: Tensor | None = None) -> Tensor:
        if self.spectrum == "kept":
            return super().weight(W, R, S)
        return R if R.shape == W.shape else R.mT
