"""OPT for any network: a method makes effective weights, the network runs on them."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import functional_call

from opt_runner.errors import UserError, explain, nearest
from opt_runner.layers import Layer, names, views
from opt_runner.methods import METHODS, Method
from opt_runner.methods.stack import Stack


class OPT(nn.Module):
    """`network` trained by Orthogonal Over-Parameterized Training: its layers use V = Q(R) W.

    The network is left as it is: the `weight`s of its layers hold W and are frozen, but where the
    method trains W; `stacks` own what the method trains beside, as R. W should be Gaussian,
    N(0, 2/d), for the paper's guarantee on the energy; any W may be used.

    network: a module whose linear and convolution layers (1, 2 or 3 dimensions) are to train so.
        It is used, not copied.
    method: a name, one of `opt_runner.methods.METHODS`, with its options as keywords, or a
        `Method`.
    layers: names of the layers that the method covers. Default: as the method says, for most every
        linear and convolution layer but the last one in module order, the classifier.
    generator: draws what the method draws, as R; default: torch's global generator.

    Raises UserError for an unknown method, option or layer and where there is nothing to cover.
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
        covered = self._choose(layers)
        self.steps = 0
        self.stacks = nn.ModuleList()
        self._last: list[tuple[Tensor, Tensor]] | None = None
        self._start_weights(covered, generator)
        self._add_stacks(covered, generator)

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose neurons are looked at: `layers`, or all but the classifier."""
        return [layer.name for layer in self.hidden]

    def _choose(self, named: Sequence[str] | None) -> list[Layer]:
        """The layers that the method covers."""
        network = type(self.network).__name__
        if named is not None:
            covered = self.hidden = views(self.network, named)
        else:
            every = views(self.network, names(self.network))
            if len(every) < 2:
                raise UserError(
                    f"{network} has {len(every)} linear or convolution layers; OPT needs two: one "
                    "to rotate and the classifier after it (or name the layers: layers=[...])"
                )
            self.hidden = every[:-1]
            covered = [layer for layer in every if self.method.covers(layer)]
        if not covered:
            raise UserError(f"{type(self.method).__name__} covers no layer of {network}")
        return covered

    @torch.no_grad()
    def _start_weights(self, layers: Sequence[Layer], generator: torch.Generator | None) -> None:
        for layer in layers:
            weight = self.network.get_parameter(layer.parameter)
            W = layer.matrix(weight)
            started = self.method.initial_weight(layer, W, generator)
            if started is not W:
                weight.copy_(layer.weight(started))
            if not self.method.trains_weight:
                weight.requires_grad_(False)

    def _add_stacks(self, layers: Sequence[Layer], generator: torch.Generator | None) -> None:
        method = type(self.method)
        used = self.method.changes_weight or self.method.has_penalty
        if method.init is not Method.init and not used:
            raise TypeError(f"{method.__name__} defines init, but neither weight nor penalty")
        alike: dict[Any, list[Layer]] = {}
        for layer in layers:
            key = (layer.d, layer.n, self.method.kind(layer))
            alike.setdefault(key, []).append(layer)
        for of_stack in alike.values():
            self.stacks.append(Stack(self.network, of_stack, self.method, generator))

    def _stacks(self) -> Iterator[Stack]:
        return cast(Iterator[Stack], iter(self.stacks))

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]

    def __getstate__(self) -> dict[str, Any]:
        # Of a forward pass that was: such tensors can be neither copied nor pickled.
        return {**self.__dict__, "_last": None}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output on the effective weights."""
        return functional_call(self.network, self.effective_weights(), args, kwargs)

    def effective_weights(self) -> dict[str, Tensor]:
        """{parameter name: V} of the layers whose V is not W, in W's precision also under autocast.

        Under bfloat16 autocast Q^T Q - I would be 4e-3 and more, and decompositions have no such
        kernels.
        """
        if not self.method.changes_weight:
            return {}
        effective: dict[str, Tensor] = {}
        made = self._make()
        for stack, (_, V) in zip(self._stacks(), made, strict=True):
            effective |= stack.as_weights(V)
        if self.method.has_penalty and torch.is_grad_enabled():
            self._last = made
        return effective

    def _make(self) -> list[tuple[Tensor, Tensor]]:
        """W and V, each (k, d, n), of each stack."""
        stacks = list(self._stacks())
        Ws = [stack.W() for stack in stacks]
        with torch.autocast(Ws[0].device.type, enabled=False):
            Vs = self.method.weights(Ws, [stack.tensors for stack in stacks])
        return list(zip(Ws, Vs, strict=True))

    def penalty(self) -> Tensor:
        """What the method adds to the loss of the step that is being made: a scalar, 0 for most.

        It uses the V of the forward pass before it, once: call it after `opt(x)`, as a step does.
        """
        zero = torch.zeros((), device=next(self.parameters()).device)
        if not self.method.has_penalty:
            return zero
        made, self._last = self._last or self._make(), None
        with torch.autocast(zero.device.type, enabled=False):
            terms = [
                self.method.penalty(stack.layers[0], W, V, self.steps + 1, **stack.tensors)
                for stack, (W, V) in zip(self._stacks(), made, strict=True)
            ]
        given = [term for term in terms if term is not None]
        return torch.stack(given).sum() if given else zero

    def optimizer(
        self,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        rotation_lr: float | None = None,
    ) -> torch.optim.Optimizer:
        """One optimizer for all that trains, right for the method; the defaults are the paper's.

        `rotation_lr` is the learning rate of what the method trains beside the network, as R;
        None: `lr`. Raises UserError where there is no such tensor, or the method has an option of
        its own for that.
        `weight_decay` is the L2 coefficient of everything that trains, as the method scales it.
        Parameter groups may hold `milestone_factor`: see `Method.optimizer_options`.
        """
        trained: dict[str | None, list[nn.Parameter]] = {
            None: [p for p in self.network.parameters() if p.requires_grad]
        }
        for stack in self._stacks():
            for name, parameter in stack.trained.items():
                trained.setdefault(name, []).append(parameter)
        if rotation_lr is not None and trained.keys() == {None}:
            raise UserError(
                f"optimizer.rotation_lr: {type(self.method).__name__} trains nothing beside the "
                "network"
            )
        groups = [
            {"params": parameters, **self._options(name, lr, rotation_lr, weight_decay)}
            for name, parameters in trained.items()
            if parameters
        ]
        optimizer = self.method.optimizer_class(groups, lr=lr, momentum=momentum, nesterov=nesterov)
        optimizer.register_step_post_hook(lambda optimizer, *_: self._after_step(optimizer))
        return optimizer

    def _options(
        self, name: str | None, lr: float, rotation_lr: float | None, weight_decay: float
    ) -> dict[str, Any]:
        """Of the optimizer's group for the tensors of this name."""
        if name is None or rotation_lr is None:
            return self.method.optimizer_options(name, lr, weight_decay)
        options = self.method.optimizer_options(name, rotation_lr, weight_decay)
        if options["lr"] != rotation_lr:
            raise UserError(
                f"optimizer.rotation_lr: {type(self.method).__name__} has an option of its own for "
                f"the learning rate of {name}, as method.rotation_lr"
            )
        return options

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.steps += 1
        self.method.after_step(list(self._stacks()), self.steps, optimizer)

    @torch.no_grad()
    def neurons(self) -> dict[str, Tensor]:
        """{layer name: V (d, n)} of the hidden layers, neurons as columns."""
        effective = self.effective_weights()
        return {
            layer.name: layer.matrix(
                effective.get(layer.parameter, self.network.get_parameter(layer.parameter))
            )
            for layer in self.hidden
        }

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """What the method measures, the largest over layers: see `Method.measure`."""
        found: dict[str, list[Tensor]] = {}
        for stack, (W, V) in zip(self._stacks(), self._make(), strict=True):
            for name, of_layers in self.method.measure(W, V, **stack.tensors).items():
                found.setdefault(name, []).append(of_layers.max())
        return {name: float(torch.stack(values).max()) for name, values in found.items()}

    def orthogonality_error(self) -> float | None:
        """Largest entry of |Q^T Q - I| over layers; None where there is no Q."""
        return self.measure().get("orthogonality_error")


@torch.no_grad()
def merge(opt: OPT) -> nn.Module:
    """A plain copy of the network that holds the effective weights: no trace of OPT is left."""
    plain = copy.deepcopy(opt.network)
    for name, V in opt.effective_weights().items():
        plain.get_parameter(name).copy_(V).requires_grad_(True)
    return plain


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
