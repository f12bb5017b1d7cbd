"""OPT (OR): R itself is the rotation, held near orthogonality by a penalty."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from opt_runner.methods.base import Method, Start, method_options


@method_options
class OrthogonalRegularization(Method):
    """V = R W, and the loss gains scale * sum over layers of ||R R^T - I||_F (not squared).

    The reference starts from N(0, 1), far from orthogonal: ||R R^T - I||_F is then about d^1.5,
    and a learning rate of 0.1 may end in NaN. The default starts at I; `start="normal"` is the
    reference's.
    """

    start: Start = "identity"
    scale: Annotated[float, Field(ge=0)] = 0.1

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        return R @ W

    def penalty(self, R: Tensor) -> Tensor:
        eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
        # The norm's derivative at exactly 0, as at R = I, is taken as 0.
        distance: Tensor = torch.linalg.matrix_norm(R @ R.mT - eye).sum()
        return self.scale * distance
