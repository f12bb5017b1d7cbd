"""Q by a parametrization of torch's, geotorch's or of your own."""

import json
from functools import cache
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from opt_runner.errors import UserError
from opt_runner.layers import Layer
from opt_runner.methods.base import MaybeGenerator, Options, Tensors, method_options
from opt_runner.methods.rotation import Rotation

_TORCH = "torch.nn.utils.parametrizations.orthogonal"


@method_options
class Parametrization(Rotation):
    """V = Q(R) W with the Q (d, d) that a parametrization of another library makes.

    Q = I at first with torch's maps; geotorch's start at a random Q, here one that d alone decides.

    constraint: the dotted name of what registers it, a function of (module, name of its weight),
        as torch.nn.utils.parametrizations.orthogonal or geotorch.orthogonal.
    arguments: of that function, as {triv: expm}; None: {orthogonal_map: cayley} for torch's, else
        none.

    R has no weight decay: torch's Householder map reads signs off R's diagonal, which decay would
    take to 0. A constraint that does not make Q orthogonal is allowed: |Q^T Q - I| is measured.
    Raises UserError where the constraint cannot be imported or does not register.
    """

    constraint: str = _TORCH
    arguments: dict[str, Any] | None = None

    family = "maps"
    colour = "#55307A"

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        module = self._module(layer.d, "cpu", torch.float32)
        return {"R": module.get_parameter("original").detach().clone()}

    def rotate(self, R: Tensor, W: Tensor) -> Tensor:
        module = self._module(W.shape[1], str(W.device), W.dtype)

        def Q(R: Tensor) -> Tensor:
            return functional_call(module, {"original": R}, ())

        if W.device.type != "cpu":
            return Q(R) @ W
        # See Note [LU one at a time on the CPU].
        return torch.stack([Q(one) for one in R]) @ W

    def optimizer_options(self, tensor: str | None, lr: float, weight_decay: float) -> Options:
        return {"lr": lr, "weight_decay": 0.0 if tensor == "R" else weight_decay}

    def _module(self, d: int, device: str, dtype: torch.dtype) -> nn.Module:
        chosen = self.arguments
        if chosen is None:
            chosen = {"orthogonal_map": "cayley"} if self.constraint == _TORCH else {}
        # As text, which is hashable whatever the values are.
        arguments = json.dumps(chosen, sort_keys=True)
        return _registered(self.constraint, arguments, d, device, dtype)


@cache
def _registered(
    constraint: str, arguments: str, d: int, device: str, dtype: torch.dtype
) -> nn.Module:
    """Return the parametrization of a d x d weight that is I; its `original` is the R of Q = I.

    arguments: of the constraint, as JSON.
    """
    with torch.device("cpu"):  # whatever the default is
        module = _on_cpu(constraint, arguments, d, dtype)
    return module.to(device)


def _on_cpu(constraint: str, arguments: str, d: int, dtype: torch.dtype) -> nn.Module:
    linear = nn.utils.skip_init(nn.Linear, d, d, bias=False, dtype=dtype)  # type: ignore[no-untyped-call]
    nn.init.eye_(linear.weight)
    try:
        register = resolve_name(constraint)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"method.constraint={constraint} cannot be imported: {error}; for geotorch "
            "run pip install geotorch"
        ) from error
    try:
        with torch.random.fork_rng([]):
            # What it draws is in no state, so it must be the same in every process.
            torch.default_generator.manual_seed(0)
            register(linear, "weight", **json.loads(arguments))
        module: nn.Module = linear.get_submodule("parametrizations.weight")
        module.get_parameter("original")
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"method.constraint={constraint} with arguments {arguments} does not register a "
            f"parametrization of one tensor: {error}"
        ) from error
    return module
