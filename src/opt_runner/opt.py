"""OPT for any network: rotations make effective weights, the network runs on them."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import functional_call

from opt_runner.errors import UserError, explain, nearest
from opt_runner.methods import METHODS, Method
from opt_runner.rotations import LayerSize, RotationGroup, neurons

_ROTATABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class OPT(nn.Module):
    """`network` trained by Orthogonal Over-Parameterized Training: its layers use Q(R) W.

    The network is left as it is: its rotated `weight`s hold W and are frozen; `rotations` own R.
    W should be Gaussian, N(0, 2/d), for the paper's guarantee on the energy; any W may be used.

    network: any module. It is used, not copied.
    method: a name (`standard gs hr ls cayley ogd or sopt`) with its options as keywords, or a
        `Method`.
    layers: names of the layers to rotate. Default: every linear and convolution layer but the
        last one in module order, the classifier. `standard` rotates none, but measures the same.
    generator: draws R and sopt's rows; default: torch's global generator.

    Raises UserError for an unknown method, option or layer and where there is nothing to rotate.
    """

    def __init__(
        self,
        network: nn.Module,
        method: str | Method = "cayley",
        *,
        layers: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.network = network
        self.method = _build_method(method, options)
        self.layers = list(_default_layers(network) if layers is None else layers)
        _check_layers(network, self.layers)
        self.rotations = nn.ModuleList()
        self.round_step = 0
        if self.method.rotates:
            self._add_rotations(generator)

    def _add_rotations(self, generator: torch.Generator | None) -> None:
        groups: dict[LayerSize, dict[str, Tensor]] = {}
        for position, (name, weight) in enumerate(self._rotated_weights().items()):
            weight.requires_grad_(False)
            d, n = neurons(weight).shape
            size = LayerSize(d, n, self.method.rows(d, first=position == 0))
            groups.setdefault(size, {})[name] = weight
        for size, weights in groups.items():
            self.rotations.append(RotationGroup(weights, size.rows, self.method, generator))

    def _rotated_weights(self) -> dict[str, Tensor]:
        return {_weight(name): self.network.get_parameter(_weight(name)) for name in self.layers}

    def _groups(self) -> Iterator[RotationGroup]:
        return cast(Iterator[RotationGroup], iter(self.rotations))

    def get_extra_state(self) -> dict[str, int]:
        return {"round_step": self.round_step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.round_step = state["round_step"]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output on the effective weights."""
        return functional_call(self.network, self.effective_weights(), args, kwargs)

    def effective_weights(self) -> dict[str, Tensor]:
        """{parameter name: Q(R) W} of the rotated layers, float32 also under autocast.

        Under bfloat16 autocast Q^T Q - I would be 4e-3 and more, and decompositions have no such
        kernels.
        """
        effective: dict[str, Tensor] = {}
        if not len(self.rotations):
            return effective
        weights = self._rotated_weights()
        device = next(iter(weights.values())).device.type
        with torch.autocast(device, enabled=False):
            groups = list(self._groups())
            Ws = [group.stack(weights) for group in groups]
            Vs = self.method.rotate_all(
                [group.R for group in groups],
                [group.acted_on(W) for group, W in zip(groups, Ws, strict=True)],
            )
            for group, V, W in zip(groups, Vs, Ws, strict=True):
                effective |= group.effective(V, W, weights)
        return effective

    def penalty(self) -> Tensor:
        """What the method adds to the loss: a scalar, 0 for most."""
        terms = [term for group in self._groups() if (term := group.penalty()) is not None]
        if terms:
            return torch.stack(terms).sum()
        return torch.zeros((), device=next(self.parameters()).device)

    def optimizer(
        self,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
    ) -> torch.optim.Optimizer:
        """One optimizer for all that trains, right for the method; the defaults are the paper's.

        `weight_decay` is the L2 coefficient of everything that trains, as the method scales it.
        Parameter groups may hold `milestone_factor`: see `Method.rotation_group`.
        """
        groups: list[dict[str, Any]] = []
        rotations = [group.R for group in self._groups()]
        if plain := [p for p in self.network.parameters() if p.requires_grad]:
            groups.append({"params": plain, **self.method.plain_group(lr, weight_decay)})
        if rotations:
            groups.append({"params": rotations, **self.method.rotation_group(lr, weight_decay)})
        optimizer = self.method.optimizer_class(groups, lr=lr, momentum=momentum, nesterov=nesterov)
        if self.method.steps_a_round is not None:
            optimizer.register_step_post_hook(lambda optimizer, *_: self._turn_round(optimizer))
        return optimizer

    def _turn_round(self, optimizer: torch.optim.Optimizer) -> None:
        steps = self.method.steps_a_round
        assert steps is not None
        self.round_step = (self.round_step + 1) % steps
        if self.round_step:
            return
        weights = self._rotated_weights()
        for group in self._groups():
            if group.rows is not None:
                group.start_round(weights)
                optimizer.state.pop(group.R, None)

    @torch.no_grad()
    def neurons(self) -> dict[str, Tensor]:
        """{layer name: effective W (d, n)} of the layers that OPT rotates."""
        effective = self.effective_weights()
        weights = self._rotated_weights() | effective
        return {name: neurons(weights[_weight(name)]) for name in self.layers}

    @torch.no_grad()
    def orthogonality_error(self) -> float | None:
        """Largest entry of |Q^T Q - I| over layers; None for plain training."""
        weights = self._rotated_weights()
        errors = [group.orthogonality_error(weights).max() for group in self._groups()]
        return float(torch.stack(errors).max()) if errors else None


def merge(opt: OPT) -> nn.Module:
    """A plain copy of the network that holds the effective weights: no trace of OPT is left."""
    effective = opt.effective_weights()
    plain = copy.deepcopy(opt.network)
    with torch.no_grad():
        for name, V in effective.items():
            plain.get_parameter(name).copy_(V).requires_grad_(True)
    return plain


def _weight(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _build_method(method: str | Method, options: dict[str, Any]) -> Method:
    if isinstance(method, Method):
        if options:
            raise UserError(f"options {sorted(options)} go to a method's name, not to an object")
        return method
    if method not in METHODS:
        hint = nearest(method, METHODS)
        raise UserError(f"unknown method {method!r}{hint}; the methods are {', '.join(METHODS)}")
    cls = METHODS[method]
    try:
        return cls(**options)
    except ValidationError as error:
        raise UserError(explain(error, method, inspect.signature(cls).parameters)) from error


def _default_layers(network: nn.Module) -> list[str]:
    """All rotatable layers but the last; a weight that several layers share counts once."""
    seen: dict[int, str] = {}
    for name, module in network.named_modules():
        if isinstance(module, _ROTATABLE):
            seen.setdefault(id(module.weight), name)
    names = list(seen.values())
    if len(names) < 2:
        raise UserError(
            f"{type(network).__name__} has {len(names)} linear or convolution layers; OPT needs "
            "two: one to rotate and the classifier after it (or name the layers: layers=[...])"
        )
    return names[:-1]


def _check_layers(network: nn.Module, layers: list[str]) -> None:
    modules = dict(network.named_modules())
    for name in layers:
        if not isinstance(modules.get(name), _ROTATABLE):
            raise UserError(f"layers: {name!r} is no linear or convolution layer of the network")
        if isinstance(modules[name].weight, nn.parameter.UninitializedParameter):
            raise UserError(f"layer {name!r} is lazy: run one batch through the network first")
