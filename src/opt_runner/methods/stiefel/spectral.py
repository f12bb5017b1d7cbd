"""The base of steps of steepest descent under the spectral norm on orthonormal columns."""

from typing import Literal

import torch
from torch import Tensor

from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Tensors, method_options
from opt_runner.methods.stiefel.orthogonal_r import OrthonormalU


@method_options
class SpectralU(OrthonormalU):
    """V = U S, see `OrthonormalU`, or V = U alone.

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
