"""What a method is: how R starts, what Q(R) W is, and what trains R."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from opt_runner.geometry import orthogonality_error

Start = Literal["normal", "identity", "orthogonal"]

# Unknown options are errors, and a method never changes once built.
method_options = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))


@method_options
class Method:
    """A variant of OPT. Subclass it, decorate with `@method_options`, and give `rotate`.

    start: R starts with entries from N(0, 1) (`normal`), as I (`identity`), or as a random
    orthogonal matrix, uniform over the group (`orthogonal`).
    """

    start: Start = "normal"

    rotates: ClassVar[bool] = True
    optimizer_class: ClassVar[type[torch.optim.SGD]] = torch.optim.SGD

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        """Q(R) W for R (k, d, d) and W (k, d, n), differentiable in R; W never trains."""
        raise NotImplementedError(f"{type(self).__name__} must define rotate(R, W)")

    def rotate_all(self, Rs: Sequence[Tensor], Ws: Sequence[Tensor]) -> list[Tensor]:
        """`rotate` for stacks of several sizes."""
        return [self.rotate(R, W) for R, W in zip(Rs, Ws, strict=True)]

    def penalty(self, R: Tensor) -> Tensor | None:
        """A term added to the loss for R (k, d, d), or None where there is none."""
        return None

    def plain_group(self, lr: float, weight_decay: float) -> dict[str, Any]:
        """Optimizer options of the parameter group of everything that trains beside R."""
        return {"lr": lr, "weight_decay": weight_decay}

    def rotation_group(self, lr: float, weight_decay: float) -> dict[str, Any]:
        """Optimizer options of the parameter group that holds R.

        `milestone_factor`, where given, replaces the recipe's factor at the milestones.
        """
        return {"lr": lr, "weight_decay": weight_decay}

    def initial(self, W: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What trains for W (d, n), as it starts: R (d, d), drawn from `generator` on the CPU."""
        return self._initial_square(W.shape[0], generator).to(W)

    def orthogonality_error(self, R: Tensor, W: Tensor) -> Tensor:
        """Largest entry of |Q^T Q - I| for each R of the stack: (k,)."""
        eye = torch.eye(W.shape[-2], dtype=R.dtype, device=R.device)
        return orthogonality_error(self.rotate(R, eye.expand_as(R).contiguous()))

    def _initial_square(self, d: int, generator: torch.Generator | None) -> Tensor:
        if self.start == "identity":
            return torch.eye(d)
        R = torch.randn(d, d, generator=generator)
        if self.start == "normal":
            return R
        Q, U = torch.linalg.qr(R)
        # Without the signs Q would not be uniform over the orthogonal group (Mezzadri 2007).
        orthogonal: Tensor = Q * U.diagonal().sign()
        return orthogonal

    def rows(self, d: int, first: bool) -> int:
        """How many of the d rows of W a rotation acts on: all, unless the method takes a share."""
        return d

    @property
    def steps_a_round(self) -> int | None:
        """After how many steps the rotations of a share are written into W, or None for never."""
        return None

    def scaled_to(self, steps: int) -> Self:
        """This method for a budget of `steps`, where its options depend on it."""
        return self
