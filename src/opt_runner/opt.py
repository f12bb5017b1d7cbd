"""OPT for any network: a method makes effective weights, the network runs on them."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from opt_runner.choice import Rule, choose
from opt_runner.errors import UserError
from opt_runner.layers import Layer, assembled, candidates
from opt_runner.methods import Method
from opt_runner.methods.stack import Stack
from opt_runner.optimizers.joint import Joint
from opt_runner.recompute import Recompute, places
from opt_runner.summary import Summary, summarise

# Of a state_dict's form; a later one is refused.
_STATE_VERSION = 1

Weights = Literal["given", "gaussian", "pretrained"]
MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class OPT(nn.Module):
    """`network` trained by Orthogonal Over-Parameterized Training: its layers use V = Q(R) W.

    The network is left as it is: the `weight`s of its layers hold W and are frozen, but where the
    method trains W; `stacks` own what the method trains beside, as R. W should be Gaussian,
    N(0, 2/d), for the paper's guarantee on the energy; any W may be used.

    network: any module. Its linear layers, convolutions, transposed convolutions and projections of
        attention can train so, embeddings and recurrent weights where they are named. It is used,
        not copied.
    method: a name, one of `opt_runner.methods.METHODS`, with its options as keywords, or a
        `Method`; or a list of `Rule`, several methods in one network.
    include, exclude, types, max_d: the layers that the method covers, see `Rule`. Default: as the
        method says, for most all but the last one in module order, the classifier. What no method
        covers trains as it is; `summary` names it.
    per_group: an R for each group of a grouped convolution, where a group has several neurons.
        Default: one R for the layer, which keeps the angles between all of its neurons.
    weights: W at the start. `given`: what the network has. `gaussian`: drawn anew from N(0, 2/d),
        for what is covered. `pretrained`: what the network has, and R starts where V = W, whatever
        the method's `start`: the network computes at first what it did before, to rounding.
    generator: draws what the method draws, as R; default: torch's global generator.

    R and Q(R) W are float32 for a network in a half precision; the network gets V in its own.

    Raises UserError for an unknown method, option or layer, for a weight that cannot be covered and
    where there is nothing to cover.
    """

    def __init__(
        self,
        network: nn.Module,
        method: str | Method | Sequence[Rule] = "cayley",
        *,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        types: Sequence[str | type[nn.Module]] | None = None,
        max_d: int | None = None,
        per_group: bool = False,
        weights: Weights = "given",
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.network = network
        self.per_group = per_group
        if isinstance(method, str | Method):
            rules = [
                Rule(method, include=include, exclude=exclude, types=types, max_d=max_d, **options)
            ]
        elif include is not None or exclude or types is not None or max_d is not None or options:
            raise UserError("include, exclude, types, max_d and options go to the Rules of a list")
        else:
            rules = list(method)
        if weights == "pretrained":
            rules = [rule.at_identity() for rule in rules]
        self.method = rules[0].method
        choice = choose(type(network).__name__, candidates(network, per_group), rules)
        self.hidden = choice.hidden
        self.steps = 0
        self.stacks = nn.ModuleList()
        # Each method that covers something, and its stacks.
        self._parts: list[tuple[Method, slice]] = []
        self._frozen: set[str] = set()  # parameters that trained before
        self._last: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for rule, covered in zip(rules, choice.covered, strict=True):
            self._start_weights(rule.method, covered, weights, generator)
        for rule, covered in zip(rules, choice.covered, strict=True):
            if covered:
                self._add_stacks(rule.method, covered, generator)
        if weights == "pretrained":
            for stack in self._stacks():
                stack.keep_given()
        self._recompute = self._new_recompute()

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose neurons are looked at: all that the methods are asked about,
        without a classifier that is not named."""
        return [layer.name for layer in self.hidden]

    @torch.no_grad()
    def _start_weights(
        self,
        method: Method,
        layers: Sequence[Layer],
        weights: Weights,
        generator: torch.Generator | None,
    ) -> None:
        for layer in layers:
            parameter = self.network.get_parameter(layer.parameter)
            W = layer.matrix(parameter)
            start = W
            if weights == "gaussian":
                drawn = torch.randn(layer.d, layer.n, generator=generator) * (2 / layer.d) ** 0.5
                start = drawn.to(W)
            given, start = start, method.initial_weight(layer, start, generator)
            if start is not given and weights == "pretrained":
                raise UserError(
                    f"{type(method).__name__} sets W itself at the start, so it cannot keep "
                    "pretrained weights"
                )
            if start is not W:
                layer.part(parameter).copy_(layer.weight(start))
            if not method.trains_weight and parameter.requires_grad:
                self._frozen.add(layer.parameter)
                parameter.requires_grad_(False)

    def _add_stacks(
        self, method: Method, layers: Sequence[Layer], generator: torch.Generator | None
    ) -> None:
        kind = type(method)
        used = method.changes_weight or method.has_penalty
        if kind.init is not Method.init and not used:
            raise TypeError(f"{kind.__name__} defines init, but neither weight nor penalty")
        alike: dict[Any, list[Layer]] = {}
        for layer in layers:
            key = (layer.d, layer.n, method.kind(layer))
            alike.setdefault(key, []).append(layer)
        start = len(self.stacks)
        for of_stack in alike.values():
            self.stacks.append(Stack(self.network, of_stack, method, generator))
        self._parts.append((method, slice(start, len(self.stacks))))

    def _stacks(self) -> Iterator[Stack]:
        return cast(Iterator[Stack], iter(self.stacks))

    def _of_methods(self) -> Iterator[tuple[int, Method, list[Stack]]]:
        """Each method with its stacks, numbered."""
        stacks = list(self._stacks())
        for number, (method, part) in enumerate(self._parts):
            yield number, method, stacks[part]

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps, "version": _STATE_VERSION}

    def set_extra_state(self, state: dict[str, int]) -> None:
        version = state.get("version", 1)
        if version > _STATE_VERSION:
            raise UserError(
                f"the state is of a newer opt-runner (form {version}, here {_STATE_VERSION}): "
                "update the package"
            )
        self.steps = state["steps"]

    def __getstate__(self) -> dict[str, Any]:
        # Of a forward pass that was: such tensors can be neither copied nor pickled.
        state = {**self.__dict__, "_last": {}}
        del state["_recompute"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._recompute = self._new_recompute()

    def _new_recompute(self) -> Recompute:
        changed = {
            layer.parameter
            for _, method, stacks in self._of_methods()
            if method.changes_weight
            for stack in stacks
            for layer in stack.layers
        }
        return Recompute(places(self.network, changed), self.effective_weights)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output on the effective weights."""
        effective = self.effective_weights()
        output = functional_call(self.network, effective, args, kwargs)
        if effective and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._recompute.in_backward_of(output, effective)
        return output

    def effective_weights(self) -> dict[str, Tensor]:
        """{parameter name: V} of the layers whose V is not W, made in float32 also under autocast
        and for a network in a half precision, and given in the network's.

        In bfloat16 Q^T Q - I would be 4e-3 and more, and decompositions have no such kernels.
        """
        parts: dict[str, list[tuple[Layer, Tensor]]] = {}
        for number, method, stacks in self._of_methods():
            if not method.changes_weight:
                continue
            made = _make(method, stacks)
            for stack, (_, V) in zip(stacks, made, strict=True):
                for layer, weight in stack.as_weights(V):
                    parts.setdefault(layer.parameter, []).append((layer, weight))
            if method.has_penalty and torch.is_grad_enabled():
                self._last[number] = made
        return {
            name: assembled(self.network.get_parameter(name), of_parameter)
            for name, of_parameter in parts.items()
        }

    def penalty(self) -> Tensor:
        """What the methods add to the loss of the step that is being made: a scalar, 0 for most.

        It uses the V of the forward pass before it, once: call it after `opt(x)`, as a step does.
        """
        zero = torch.zeros((), device=next(self.parameters()).device)
        given: list[Tensor] = []
        for number, method, stacks in self._of_methods():
            if not method.has_penalty:
                continue
            made = self._last.pop(number, None) or _make(method, stacks)
            with _no_autocast(zero):
                terms = [
                    method.penalty(stack.layers[0], W, V, self.steps + 1, **stack.tensors)
                    for stack, (W, V) in zip(stacks, made, strict=True)
                ]
            given += [term for term in terms if term is not None]
        return torch.stack(given).sum() if given else zero

    def optimizer(
        self,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        rotation_lr: float | None = None,
        make: MakeOptimizer | None = None,
    ) -> torch.optim.Optimizer:
        """Return one optimizer for all that trains; the defaults are the paper's.

        rotation_lr: learning rate of what the methods train beside the network, as R; None: `lr`.
        weight_decay: coefficient of everything that trains, as the method scales it: of several
            the first, for what no method has tensors for.
        make: returns the optimizer of parameter groups, in place of SGD. Each group has its `lr`
            and `weight_decay`; `matrices` is True if it holds weights of hidden layers, or stacks
            R (k, ...), which have `stacked` as well. A method with an optimizer of its own, as
            `ogd`, keeps that for its tensors, with `momentum`.

        Parameter groups may hold `milestone_factor`: see `Method.optimizer_options`.
        Raises UserError for a rotation_lr where there is no such tensor, or a method has an option
        of its own for it.
        """
        hidden = {layer.parameter for layer in self.hidden} if make else set()
        of_network: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                of_network[name in hidden].append(parameter)
        options = self.method.optimizer_options(None, lr, weight_decay)
        groups = [
            {"params": of_network[False], **options},
            {"params": of_network[True], **options, "matrices": True},
        ]
        plain = len(groups)
        owned: dict[type[torch.optim.SGD], list[dict[str, Any]]] = {}
        for _, method, stacks in self._of_methods():
            trained: dict[str, list[nn.Parameter]] = {}
            for stack in stacks:
                for name, parameter in stack.trained.items():
                    trained.setdefault(name, []).append(parameter)
            for name, parameters in trained.items():
                group: dict[str, Any] = {"params": parameters}
                group |= _options(method, name, lr, rotation_lr, weight_decay)
                if group.get("retract"):
                    owned.setdefault(method.optimizer_class, []).append(group)
                elif make and parameters[0].ndim == 3:
                    group |= {"matrices": True, "stacked": True}
                groups.append(group)
        if rotation_lr is not None and len(groups) == plain:
            raise UserError(
                f"optimizer.rotation_lr: {type(self.method).__name__} trains nothing beside the "
                "network"
            )
        groups = [group for group in groups if group["params"]]
        sgd: dict[str, Any] = {"lr": lr, "momentum": momentum, "nesterov": nesterov}
        optimizer: torch.optim.Optimizer
        if make is None and len(owned) <= 1:
            # A method's own class is SGD for all other groups.
            optimizer = next(iter(owned), torch.optim.SGD)(groups, **sgd)
        else:
            others = [group for group in groups if not group.get("retract")]
            parts: list[torch.optim.Optimizer] = [cls(own, **sgd) for cls, own in owned.items()]
            if others:
                parts.insert(0, make(others) if make else torch.optim.SGD(others, **sgd))
            optimizer = parts[0] if len(parts) == 1 else Joint(parts)
        self._attach(optimizer)
        return optimizer

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer of your own over `opt.parameters()` turn rounds and count steps.

        `sopt` needs it, and methods whose penalty depends on the step; `optimizer` does it.
        Raises UserError where a method needs an optimizer of its own, as `ogd`.
        """
        for _, method, _ in self._of_methods():
            needed = method.optimizer_class
            if needed is not torch.optim.SGD and not isinstance(optimizer, needed):
                raise UserError(
                    f"{type(method).__name__} needs {needed.__name__}, which opt.optimizer(...) "
                    f"makes, not {type(optimizer).__name__}"
                )
        self._attach(optimizer)

    def _attach(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_post_hook(lambda optimizer, *_: self._after_step(optimizer))

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.steps += 1
        for _, method, stacks in self._of_methods():
            method.after_step(stacks, self.steps, optimizer)

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
        """What the methods measure, the largest over layers: see `Method.measure`."""
        found: dict[str, list[Tensor]] = {}
        for _, method, stacks in self._of_methods():
            for stack, (W, V) in zip(stacks, _make(method, stacks), strict=True):
                for name, of_layers in method.measure(W, V, **stack.tensors).items():
                    found.setdefault(name, []).append(of_layers.max())
        return {name: float(torch.stack(values).max()) for name, values in found.items()}

    def orthogonality_error(self) -> float | None:
        """Largest entry of |Q^T Q - I| over layers; None where there is no Q."""
        return self.measure().get("orthogonality_error")

    def summary(self) -> Summary:
        """Every layer with its d, n, method and the parameters that train; it prints as a table."""
        return summarise(self.network, list(self._stacks()), self.per_group)


@torch.no_grad()
def merge(opt: OPT) -> nn.Module:
    """A plain copy of the network that holds the effective weights: no trace of OPT is left.

    What trained before OPT got the network trains again.
    """
    plain = copy.deepcopy(opt.network)
    for name, V in opt.effective_weights().items():
        plain.get_parameter(name).copy_(V)
    for name in opt._frozen:
        plain.get_parameter(name).requires_grad_(True)
    return plain


def _make(method: Method, stacks: Sequence[Stack]) -> list[tuple[Tensor, Tensor]]:
    """W and V, each (k, d, n), of each stack of a method."""
    Ws = [stack.W() for stack in stacks]
    with _no_autocast(Ws[0]):
        Vs = method.weights(Ws, [stack.tensors for stack in stacks])
    return list(zip(Ws, Vs, strict=True))


def _no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def _options(
    method: Method, name: str, lr: float, rotation_lr: float | None, weight_decay: float
) -> dict[str, Any]:
    """Of the optimizer's group for the tensors of this name."""
    if rotation_lr is None:
        return method.optimizer_options(name, lr, weight_decay)
    options = method.optimizer_options(name, rotation_lr, weight_decay)
    if options["lr"] != rotation_lr:
        raise UserError(
            f"optimizer.rotation_lr: {type(method).__name__} has an option of its own for "
            f"the learning rate of {name}, as method.rotation_lr"
        )
    return options
