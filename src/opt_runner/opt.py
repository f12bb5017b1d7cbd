"""OPT for any network: a method makes effective weights, the network runs on them."""

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from opt_runner.choice import Rule, choose, few_covered
from opt_runner.errors import UserError
from opt_runner.layers import Layer, assembled, candidates
from opt_runner.methods import Method
from opt_runner.methods.kernels.shards import is_sharded, unshard, whole
from opt_runner.methods.stack import Stack, Weights, held, start_weight
from opt_runner.recompute import Recompute, Swap, places
from opt_runner.steps import Steps, innermost
from opt_runner.summary import Summary, summarise
from opt_runner.wrapper import Wrapper

# Of a state_dict's form; a later one is refused.
_STATE_VERSION = 2



class OPT(Wrapper):
    """`network` trained by Orthogonal Over-Parameterized Training: its layers use V = Q(R) W.

    The network is left as it is: the `weight`s of its layers hold W and are frozen, but where the
    method trains W; `stacks` own what the method trains beside, as R. W should be Gaussian,
    N(0, 2/d), for the paper's guarantee on the energy; any W may be used.

    network: any module. Its linear layers, convolutions, transposed convolutions, projections of
        attention and the types of `register_layer` can train so, embeddings and recurrent weights
        where they are named. It is used, not copied.
    method: a name, one of `opt_runner.methods.METHODS`, with its options as keywords, or a
        `Method`; or a list of `Rule`, several methods in one network.
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
    where there is nothing to cover. Warns of layers that stay plain because W is zero.
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
        example: Any = None,
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
        every = candidates(network, per_group, example)
        choice = choose(network, every, rules)
        self.steps = 0
        self.stacks = nn.ModuleList()
        # Each method that covers something, and its stacks.
        self._parts: list[tuple[Method, slice]] = []
        self._frozen: set[str] = set()  # parameters that trained before
        zero: list[Layer] = []
        for rule, covered in zip(rules, choice.covered, strict=True):
            zero += self._start_weights(rule.method, covered, weights, generator)
        if zero:
            choice = choice.without(zero, every, rules)
        self.hidden = choice.hidden
        self.notes = choice.notes
        for rule, covered in zip(rules, choice.covered, strict=True):
            if covered:
                self._freeze(rule.method, covered)
                self._add_stacks(rule.method, covered, weights, generator)
        if weights == "pretrained":
            for stack in self._stacks():
                stack.keep_given()
        if len(rules) == 1 and (told := few_covered(network, every, choice, rules[0])):
            warnings.warn(told, stacklevel=2)
        self._begin()
        self._take_signature()

    def _begin(self) -> None:
        """Set up what no copy or pickle takes along."""
        self._last: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._inside: Mapping[str, Tensor] | None = None  # V, within `effective`
        self._added = False  # whether the last output's loss has the penalty
        self.lacks_penalty = any(method.has_penalty for method, _ in self.parts())
        self._unchecked = True  # until the first forward pass
        self._optimizers = Steps(self)
        changed = {
            layer.parameter
            for method, stacks in self.parts()
            if method.changes_weight
            for stack in stacks
            for layer in stack.layers
        }
        self._recompute = Recompute(places(self.network, changed), self.effective_weights)

    @property
    def layers(self) -> list[str]:
        """Return the names of the layers whose neurons are looked at.

        They are all that the methods are asked about, without heads that are not named.
        """
        return [layer.name for layer in self.hidden]

    @torch.no_grad()
    def _start_weights(
        self,
        method: Method,
        layers: Sequence[Layer],
        weights: Weights,
        generator: torch.Generator | None,
    ) -> list[Layer]:
        """Write W as it starts; return the layers that are zero, and would stay so."""
        return [
            layer
            for layer in layers
            if not start_weight(
                layer, method, held(self.network, layer.parameter), weights, generator
            )
        ]

    def _freeze(self, method: Method, layers: Sequence[Layer]) -> None:
        for layer in layers:
            parameter = held(self.network, layer.parameter)
            if not method.trains_weight and parameter.requires_grad:
                self._frozen.add(layer.parameter)
                parameter.requires_grad_(False)

    def _add_stacks(
        self,
        method: Method,
        layers: Sequence[Layer],
        weights: Weights,
        generator: torch.Generator | None,
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
            self.stacks.append(Stack(self.network, of_stack, method, generator, weights))
        self._parts.append((method, slice(start, len(self.stacks))))

    def _stacks(self) -> Iterator[Stack]:
        return cast(Iterator[Stack], iter(self.stacks))

    def parts(self) -> list[tuple[Method, list[Stack]]]:
        """Return each method that covers something, with its stacks."""
        stacks = list(self._stacks())
        return [(method, stacks[part]) for method, part in self._parts]

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
        """Take the steps; raise UserError for the state of a newer release."""
        version, steps = state.tolist()
        if version > _STATE_VERSION:
            raise UserError(
                f"the state is of a newer opt-runner (form {version}, here {_STATE_VERSION}): "
                "update the package"
            )
        self.steps = steps

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the tensors of a forward pass, which cannot be copied."""
        made_anew = {"_last", "_inside", "_added", "_unchecked", "_optimizers", "_recompute"}
        return {key: value for key, value in self.__dict__.items() if key not in made_anew}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._begin()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's output on the effective weights.

        Where it has a `loss` of its own, as those of transformers, the penalty is added to it.
        """
        self._added = False
        if self._inside is not None:
            output = self.network(*args, **kwargs)
            return self._with_penalty(output)
        effective = self.effective_weights()
        plain = not torch.compiler.is_compiling() and not _transformed()
        before = self._checked_sums(effective) if plain and self._unchecked else None
        output = functional_call(self.network, effective, args, kwargs)
        if before is not None:
            self._check_unchanged(before, effective)
        output = self._with_penalty(output)
        if effective and plain and torch.is_grad_enabled():
            self._recompute.in_backward_of(output, effective)
        return output

    @contextmanager
    def effective(self) -> Iterator[nn.Module]:
        """Let the network itself compute with V inside of the context, which gives the network.

        For its other methods, as `generate`, and for losses that take the network. Gradients reach
        R; call `backward` inside if the network checkpoints activations.
        """
        if self._inside is not None:
            yield self.network
            return
        self._inside = self.effective_weights()
        swap = Swap(self._recompute.places, self._inside)
        try:
            yield self.network
        finally:
            swap.end()
            self._inside = None

    def _checked_sums(self, effective: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the sum of each V, and raise UserError where the network would not get it."""
        apart = [name for name in effective if is_sharded(held(self.network, name))]
        if apart:
            raise UserError(
                f"{apart[0]} is sharded apart from OPT, and Q(R) needs all of it: use fully_shard("
                "opt) on the whole of OPT, without tensor parallelism or shards of its parts"
            )
        return {
            name: V.detach().sum(dtype=torch.float64)
            for name, V in effective.items()
            if not V.is_meta
        }

    def _check_unchanged(
        self, before: Mapping[str, Tensor], effective: Mapping[str, Tensor]
    ) -> None:
        """Raise UserError if the network's forward wrote to V, past the gradient of R."""
        after = self._checked_sums(effective)
        names = [
            name
            for name, total in before.items()
            if not torch.equal(total, after[name]) and not after[name].isnan()
        ]
        if names:
            raise UserError(
                f"the network writes to its weights in the forward pass, as `weight.data *= mask`: "
                f"{', '.join(names)}. No gradient sees that: multiply in the forward instead, or "
                f"leave the layers out: exclude={[name.rpartition('.')[0] for name in names]}"
            )
        self._unchecked = False

    def effective_weights(self) -> dict[str, Tensor]:
        """Return {parameter name: V} of the layers whose V is not W.

        V is made in float32 also under autocast and for a network in a half precision, and given
        in the network's type. In bfloat16 Q^T Q - I would be 4e-3 and more, and decompositions have
        no such kernels.
        """
        if self._inside is not None:
            return dict(self._inside)
        made_of: dict[str, list[tuple[Layer, Tensor]]] = {}
        for number, (method, stacks) in enumerate(self.parts()):
            if not method.changes_weight:
                continue
            made = self._make(method, stacks)
            for stack, (_, V) in zip(stacks, made, strict=True):
                for layer, weight in stack.as_weights(V):
                    made_of.setdefault(layer.parameter, []).append((layer, weight))
            if method.has_penalty and torch.is_grad_enabled():
                self._last[number] = made
        return {
            name: assembled(whole(held(self.network, name)), of_parameter)
            for name, of_parameter in made_of.items()
        }

    def _make(self, method: Method, stacks: Sequence[Stack]) -> list[tuple[Tensor, Tensor]]:
        """Return W and V, each (k, d, n), of each stack of a method."""
        if self._inside is not None:
            raise UserError("V is in the place of W inside of opt.effective(): leave it first")
        if any(stack.empty for stack in stacks):
            raise UserError(
                "R has no values since to_empty: call opt.reset_parameters(), or load a state"
            )
        Ws = [stack.W() for stack in stacks]
        with _no_autocast(Ws[0]):
            Vs = method.weights(Ws, [stack.tensors for stack in stacks])
        return list(zip(Ws, Vs, strict=True))

    def penalty(self) -> Tensor:
        """Return what the methods add to the loss of the step that is being made: a scalar.

        It is 0 for most, and where the output's own `loss` has it already. It uses the V of the
        forward pass before it, once: call it after `opt(x)`, as a step does.
        """
        zero = torch.zeros((), device=next(self.parameters()).device)
        self.lacks_penalty = False
        if self._added:
            return zero
        given: list[Tensor] = []
        for number, (method, stacks) in enumerate(self.parts()):
            if not method.has_penalty:
                continue
            made = self._last.pop(number, None) or self._make(method, stacks)
            with _no_autocast(zero):
                terms = [
                    method.penalty(stack.layers[0], W, V, self.steps + 1, **stack.tensors)
                    for stack, (W, V) in zip(stacks, made, strict=True)
                ]
            given += [term for term in terms if term is not None]
        return torch.stack(given).sum() if given else zero

    def _with_penalty(self, output: Any) -> Any:
        """Add the penalty to the loss that the network computes itself, where it does."""
        if not torch.is_grad_enabled() or not any(m.has_penalty for m, _ in self._parts):
            return output
        by_key = isinstance(output, MutableMapping)
        loss = output.get("loss") if by_key else getattr(output, "loss", None)
        if isinstance(loss, Tensor) and loss.requires_grad and loss.ndim == 0:
            if by_key:
                output["loss"] = loss + self.penalty()
            else:
                output.loss = loss + self.penalty()
            self._added = True
        return output

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Return False where Trainer must divide the loss by the parts of a batch itself.

        The penalty is the same in each part, whatever share of the tokens it has.
        """
        if any(method.has_penalty for method, _ in self._parts):
            return False
        parameters = inspect.signature(self.network.forward).parameters.values()
        default = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        return bool(getattr(self.network, "accepts_loss_kwargs", default))

    def optimizer(
        self,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        rotation_lr: float | None = None,
    ) -> torch.optim.Optimizer:
        """Return one optimizer for all that trains; the defaults are the paper's.

        rotation_lr: learning rate of what the methods train beside the network, as R; None: `lr`.
        weight_decay: L2 coefficient of everything that trains, as the method scales it: of several
            the first, for what no method has tensors for.

        Parameter groups may hold `milestone_factor`: see `Method.optimizer_options`.
        Raises UserError for a rotation_lr where there is no such tensor, or a method has an option
        of its own for it.
        """
        others = [p for p in self.network.parameters() if p.requires_grad]
        groups = [{"params": others, **self.method.optimizer_options(None, lr, weight_decay)}]
        for method, stacks in self.parts():
            trained: dict[str, list[nn.Parameter]] = {}
            for stack in stacks:
                for name, parameter in stack.trained.items():
                    trained.setdefault(name, []).append(parameter)
            groups += [
                {"params": parameters, **_options(method, name, lr, rotation_lr, weight_decay)}
                for name, parameters in trained.items()
            ]
        if rotation_lr is not None and len(groups) == 1:
            raise UserError(
                f"optimizer.rotation_lr: {type(self.method).__name__} trains nothing beside the "
                "network"
            )
        optimizer = self._optimizer_class()(
            [group for group in groups if group["params"]],
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
        )
        self.attach(optimizer)
        self._optimizers.rates[optimizer] = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def _optimizer_class(self) -> type[torch.optim.SGD]:
        """Return the class that all methods can take: others leave its special groups to it."""
        classes = {method.optimizer_class for method, _ in self._parts}
        for cls in classes:
            if all(issubclass(cls, other) for other in classes):
                return cls
        names = " and ".join(sorted(cls.__name__ for cls in classes))
        raise UserError(f"no optimizer does what {names} do, which the methods ask for")

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer of your own over `opt.parameters()` turn rounds and count steps.

        `sopt` needs it, and methods whose penalty depends on the step; `optimizer` does it. The
        wrappers of accelerate and Lightning may be given as well.
        Raises UserError where a method needs an optimizer of its own, as `ogd`.
        """
        optimizer = innermost(optimizer)
        if optimizer in self._optimizers.attached:
            return
        for method, _ in self._parts:
            needed = method.optimizer_class
            if needed is not torch.optim.SGD and not isinstance(optimizer, needed):
                raise UserError(
                    f"{type(method).__name__} needs {needed.__name__}, which opt.optimizer(...) "
                    f"makes, not {type(optimizer).__name__}"
                )
        self._optimizers.attached.add(optimizer)
        optimizer.register_step_post_hook(lambda optimizer, *_: self._after_step(optimizer))

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.steps += 1
        for method, stacks in self.parts():
            method.after_step(stacks, self.steps, optimizer)

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
        """Return every layer with its d, n, method and parameters that train; it prints as a table."""
        return summarise(self.network, list(self._stacks()), self.per_group, self.notes)


@torch.no_grad()
def merge(opt: OPT) -> nn.Module:
    """Return a plain copy of the network with the effective weights: no trace of OPT is left.

    What trained before OPT got the network trains again. Under FSDP2 all processes call this, and
    get a network that is not sharded.
    """
    effective = opt.effective_weights()
    plain = copy.deepcopy(opt.network)
    if any(is_sharded(parameter) for parameter in plain.parameters()):
        unshard(plain)
    for name, V in effective.items():
        plain.get_parameter(name).copy_(V)
    for name in opt._frozen:
        plain.get_parameter(name).requires_grad_(True)
    return plain


def _transformed() -> bool:
    """Return True within the transformations of torch.func, in which values cannot be looked at."""
    return bool(torch._C._are_functorch_transforms_active())


def _no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def _options(
    method: Method, name: str, lr: float, rotation_lr: float | None, weight_decay: float
) -> dict[str, Any]:
    """Return the options of the optimizer's group for the tensors of this name."""
    if rotation_lr is None:
        return method.optimizer_options(name, lr, weight_decay)
    options = method.optimizer_options(name, rotation_lr, weight_decay)
    if options["lr"] != rotation_lr:
        raise UserError(
            f"optimizer.rotation_lr: {type(method).__name__} has an option of its own for "
            f"the learning rate of {name}, as method.rotation_lr"
        )
    return options
