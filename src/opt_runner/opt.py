"""OPT for any network: a method makes effective weights, the network runs on them."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any, Self, cast, get_args

import torch
from torch import Tensor, nn

from opt_runner.candidates import candidates
from opt_runner.choice import Rule, choose, few_covered
from opt_runner.coverage import kept_elsewhere
from opt_runner.effective import EffectiveNetwork
from opt_runner.errors import UserError, listed, nearest
from opt_runner.layers import Layer
from opt_runner.methods import Method
from opt_runner.methods.kernels.shards import unshard, whole
from opt_runner.methods.stack import Stack
from opt_runner.methods.weights import Weights, held, is_short, start_weight
from opt_runner.stepping import MakeOptimizer, Stepping
from opt_runner.summary import Summary, summarise

# Of a state_dict's form; another one is refused.
_STATE_VERSION = 3
_SHORT = "W is short, and rotations keep its length; weights=gaussian draws it anew"


class OPT(EffectiveNetwork):
    """`network` trained by Orthogonal Over-Parameterized Training: its layers use V = Q(R) W.

    No module is replaced; covered weights keep W, frozen unless the method trains W. `stacks` own
    the tensors that the method trains, as R. W should be Gaussian, N(0, 2/d), for the paper's
    guarantee on the energy; any W may be used.

    network: any module. Its linear layers, convolutions, transposed convolutions, projections of
        attention and the types of `register_layer` can train so, embeddings and recurrent weights
        where they are named. It is used, not copied.
    method: a name, one of `opt_runner.methods.METHODS`, with its options as keywords, or a
        `Method`; or a `Rule` or a list of them, several methods in one network.
    include, exclude, types, max_d: the layers that the method covers, see `Rule`. Default: as the
        method says, for most all but those that end in an output. What no method covers trains as
        it is; `summary` names it.
    per_group: an R for each group of a grouped convolution, where a group has several neurons.
        Default: one R for the layer, which keeps the angles between all of its neurons.
    weights: W at the start. `given`: what the network has. `gaussian`: drawn anew from N(0, 2/d),
        for what is covered. `pretrained`: what the network has, and R starts where V = W, whatever
        the method's `start`: the network computes at first what it did before, to rounding.
    example: an input of the network, a tensor, a tuple of arguments or a dict of keyword arguments.
        One forward pass then finds the layers that end in an output; without it names tell.
    generator: draws what the method draws, as R; default: torch's global generator.

    R and Q(R) W are float32 for a network in a half precision; the network gets V in its own.
    Attributes and methods of the network are reached through this module; see `Wrapper`.

    Raises UserError for an unknown method, option or layer, for a weight that cannot be covered and
    where there is nothing to cover. Warns of layers that stay plain because no rotation moves them.
    """

    made_anew = EffectiveNetwork.made_anew | {"_stepping"}

    def __init__(
        self,
        network: nn.Module,
        method: str | Method | Rule | Sequence[Rule] = "cayley",
        *,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        types: Sequence[str | type[nn.Module]] | None = None,
        max_d: int | None = None,
        per_group: bool = False,
        weights: Weights = "given",
        example: Any = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise UserError(f"OPT takes a torch.nn.Module, not {network!r}")
        if isinstance(network, torch.jit.ScriptModule):
            raise UserError("OPT takes no scripted network: script merge(opt) after the training")
        super().__init__(network)
        self.per_group = per_group
        if weights not in get_args(Weights):
            raise UserError(
                f"weights={weights!r} is unknown{nearest(str(weights), get_args(Weights))}; it is "
                f"{listed(get_args(Weights))}"
            )
        if isinstance(method, str | Method):
            rules = [
                Rule(method, include=include, exclude=exclude, types=types, max_d=max_d, **options)
            ]
        elif include is not None or exclude or types is not None or max_d is not None or options:
            raise UserError("include, exclude, types, max_d and options go to the Rules of a list")
        else:
            rules = [method] if isinstance(method, Rule) else [copy.copy(rule) for rule in method]
            if not rules or not all(isinstance(rule, Rule) for rule in rules):
                raise UserError(
                    f"method={method!r} is neither a name nor a list of rules: [Rule('cayley')]"
                )
        if weights == "pretrained":
            rules = [rule.at_identity() for rule in rules]
        self.method = rules[0].method
        every = candidates(network, per_group, example)
        choice = choose(network, every, rules)
        self._frozen: set[str] = set()  # parameters that trained before
        still: dict[str, str] = {}
        for rule, covered in zip(rules, choice.covered, strict=True):
            for layer in covered:
                if not rule.method.turns(layer):
                    still[layer.name] = "d = 1"
                elif not start_weight(network, layer, rule.method, weights, generator):
                    still[layer.name] = "zero at the start"
        if still:
            choice = choice.without(still, every, rules)
        self.hidden = choice.hidden
        self.notes = {**choice.notes}
        for rule, covered in zip(rules, choice.covered, strict=True):
            if weights == "given":
                short = (layer.name for layer in covered if is_short(network, layer, rule.method))
                self.notes |= dict.fromkeys(short, _SHORT)
            if covered:
                self._cover(rule.method, covered, weights, generator)
        if weights == "pretrained":
            for stack in self._stacks():
                stack.keep_given()
        named = [layer.parameter for stack in self._stacks() for layer in stack.layers]
        if told := kept_elsewhere(network, named):
            warnings.warn(told, stacklevel=2)
        if len(rules) == 1 and (told := few_covered(network, every, choice, rules[0])):
            warnings.warn(told, stacklevel=2)
        self._begin()
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]
        self._take_signature()

    def _begin(self) -> None:
        super()._begin()
        self._stepping = Stepping(self)
        for stack in self._stacks():
            stack.check_weight("anew")

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let everything train, or nothing; W stays frozen where the method does not train it."""
        with self.w_in_place():
            super().requires_grad_(requires_grad)
            for stack in self._stacks():
                if not stack.method.trains_weight:
                    for layer in stack.layers:
                        stack.parameter(layer).requires_grad_(False)
        return self

    @property
    def layers(self) -> list[str]:
        """Return the names of the hidden layers, whose neurons are measured; see `Choice`."""
        return [layer.name for layer in self.hidden]

    def _cover(
        self,
        method: Method,
        layers: Sequence[Layer],
        weights: Weights,
        generator: torch.Generator | None,
    ) -> None:
        """Freeze W unless it trains, and make the stacks of layers that are alike."""
        kind = type(method)
        used = method.changes_weight or method.has_penalty
        if kind.init is not Method.init and not used:
            raise TypeError(f"{kind.__name__} defines init, but neither weight nor penalty")
        alike: dict[Any, list[Layer]] = {}
        for layer in layers:
            parameter = held(self.network, layer.parameter)
            key = (layer.d, layer.n, method.kind(layer), parameter.device)
            alike.setdefault(key, []).append(layer)
            if not method.trains_weight and parameter.requires_grad:
                self._frozen.add(layer.parameter)
                parameter.requires_grad_(False)
        start = len(self.stacks)
        for of_stack in alike.values():
            self.stacks.append(Stack(self.network, of_stack, method, generator, weights))
        self._parts.append((method, slice(start, len(self.stacks))))

    def reset_parameters(self) -> None:
        """Start the network, W and all tensors of the methods anew, as after `to_empty`."""
        for module in self.network.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        for stack in self._stacks():
            stack.reset_parameters()

    def get_extra_state(self) -> Tensor:
        """Return the state's version and the steps made, as a tensor: safetensors holds no dict."""
        return torch.tensor([_STATE_VERSION, self.steps])

    def set_extra_state(self, state: Tensor) -> None:
        """Take the steps; raise UserError for the state of another release."""
        version, steps = state.tolist()
        if version != _STATE_VERSION:
            age = "a newer" if version > _STATE_VERSION else "an older"
            raise UserError(
                f"the state is of {age} opt-runner (form {version}, here {_STATE_VERSION}): load "
                "it with that release"
            )
        self.steps = steps

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
        weight_decay: coefficient for all tensors that train. A method may scale it; of several
            methods the first scales it for tensors that belong to no method.
        make: returns the optimizer of parameter groups, in place of SGD. Each group has its `lr`
            and `weight_decay`; `matrices` is True if it holds weights of hidden layers, or stacks
            R (k, ...), which have `stacked` as well. A method with an optimizer of its own, as
            `ogd`, keeps that for its tensors, with `momentum`.

        Parameter groups may hold `milestone_factor`: see `Method.optimizer_options`.
        Raises UserError for a rotation_lr where there is no such tensor, or a method has an option
        of its own for it.
        """
        sgd = {"lr": lr, "momentum": momentum, "nesterov": nesterov}
        with self.w_in_place():
            return self._stepping.make(self, make, rotation_lr, weight_decay, **sgd)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer of your own over `opt.parameters()` count steps and end rounds.

        `sopt` and `poet` need it, and methods whose penalty depends on the step; `optimizer` does
        it. The wrappers of accelerate and Lightning may be given as well.
        Raises UserError where a method needs an optimizer of its own, such as `ogd`.
        """
        self._stepping.attach(self, optimizer)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Count a step, and let the methods do what follows one; attached optimizers call it."""
        self.steps += 1
        with self.w_in_place():
            for method, stacks in self.parts():
                method.after_step(stacks, self.steps, optimizer)
                for stack in stacks:
                    stack.check_weight("after a step")

    @torch.no_grad()
    def neurons(self) -> dict[str, Tensor]:
        """Return {layer name: V (d, n)} of the hidden layers, neurons as columns."""
        effective = self.effective_weights()
        return {
            layer.name: layer.matrix(
                effective.get(layer.parameter, whole(held(self.network, layer.parameter)))
            )
            for layer in self.hidden
        }

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return what the methods measure, the largest over layers: see `Method.measure`."""
        found: dict[str, list[Tensor]] = {}
        for method, stacks in self.parts():
            for stack, (W, V) in zip(stacks, self._make(method, stacks), strict=True):
                for name, of_layers in method.measure(W, V, **stack.tensors).items():
                    found.setdefault(name, []).append(of_layers.max())
        return {name: float(torch.stack(values).max()) for name, values in found.items()}

    def orthogonality_error(self) -> float | None:
        """Return the largest entry of |Q^T Q - I| over layers; None where there is no Q."""
        return self.measure().get("orthogonality_error")

    def summary(self) -> Summary:
        """Return every layer with its d, n, method and what trains; it prints as a table."""
        return summarise(self.network, list(self._stacks()), self.per_group, self.notes)


def _after_load(module: nn.Module, *_: Any) -> None:
    """Let weights be shared as before the load.

    Raises UserError if the state had the weights, and not what the methods train.
    """
    opt = cast(OPT, module)
    opt._share(opt._shared)
    for stack in opt._stacks():
        stack.check_weight()


@torch.no_grad()
def merge(opt: OPT) -> nn.Module:
    """Return a plain copy of the network with the effective weights: no trace of OPT is left.

    What trained before OPT got the network trains again. Under FSDP2 all processes call this, and
    get a network that is not sharded. Layers under tensor parallelism stay so.
    Raises UserError for another module.
    """
    if not hasattr(opt, "effective_weights"):
        raise UserError(f"merge takes an OPT, not {type(opt).__name__}; of DDP give its `module`")
    effective = opt.effective_weights()
    with opt.w_in_place():
        gradients = [(parameter, parameter.grad) for parameter in opt.network.parameters()]
        for parameter, _ in gradients:
            parameter.grad = None  # no part of the copy, and FSDP2's cannot be copied
        try:
            # What the last step left, as a state or an old-style weight_norm, is no leaf.
            left = (value for module in opt.network.modules() for value in vars(module).values())
            graph = [v for v in left if isinstance(v, Tensor) and v.grad_fn is not None]
            plain = copy.deepcopy(opt.network, {id(v): v.detach().clone() for v in graph})
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
    unshard(plain, opt)
    for name, V in effective.items():
        plain.get_parameter(name).copy_(V)
    for name in opt._frozen:
        plain.get_parameter(name).requires_grad_(True)
    return plain
