"""A network that computes with the effective weights V in the place of its W."""

import threading
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from opt_runner.errors import UserError, listed
from opt_runner.layers import Layer, assembled
from opt_runner.methods import Method
from opt_runner.methods.kernels.fused import eager, transformed
from opt_runner.methods.kernels.shards import is_sharded, whole
from opt_runner.methods.stack import Stack
from opt_runner.methods.weights import held
from opt_runner.optimizers.inspection import parameter_ids
from opt_runner.recompute import Recompute, Swap, places
from opt_runner.wrapper import Wrapper


class EffectiveNetwork(Wrapper):
    """`network` with stacks, whose methods make V: its forward and the penalty of a step.

    stacks: what the methods train beside the network. steps: those made so far.
    """

    made_anew = frozenset(
        {"_last", "_swap", "_sums", "_added", "_unchecked", "_recompute", "_slots", "_lock"}
    )

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.steps = 0
        self.stacks = nn.ModuleList()
        self._parts: list[tuple[Method, slice]] = []

    def _begin(self) -> None:
        """Set up what no copy or pickle takes along."""
        self._last: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._lock = threading.RLock()  # V is in the place of W for one thread at a time
        self._swap: Swap | None = None  # within `effective`
        self._sums: dict[str, Tensor] = {}  # of V, within `effective`
        self._added = False  # whether the last output's loss has the penalty
        self.lacks_penalty = self._has_penalty
        self._unchecked = True  # until the first forward pass
        changed = {
            layer.parameter
            for method, stacks in self.parts()
            if method.changes_weight
            for stack in stacks
            for layer in stack.layers
        }
        self._recompute = Recompute(places(self.network, changed), self.effective_weights)
        first = {module: name for name, module in self.network.named_modules()}
        self._slots = [
            (f"{first[module]}.{attribute}" if first[module] else attribute, name)
            for name, found in self._recompute.places.items()
            for module, attribute in found
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy or a pickle. Raises UserError inside of `effective`."""
        self._refuse_inside("A copy of OPT")
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()

    def _stacks(self) -> Iterator[Stack]:
        return cast(Iterator[Stack], iter(self.stacks))

    def parts(self) -> list[tuple[Method, list[Stack]]]:
        """Return each method that covers something, with its stacks."""
        stacks = list(self._stacks())
        return [(method, stacks[part]) for method, part in self._parts]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's output on the effective weights.

        Where it has a `loss` of its own, as those of transformers, the penalty is added to it.
        """
        with self._alone():
            self._added = False
            if self._swap is not None:
                return self._with_penalty(self.network(*args, **kwargs))
            effective = self.effective_weights()
            plain = eager()
            before = self._checked_sums(effective) if plain and self._unchecked else None
            # Each place once: `tie_weights` swaps a module with two names twice, and V stays in it.
            values = {slot: effective[name] for slot, name in self._slots}
            output = functional_call(self.network, values, args, kwargs, tie_weights=False)
            if before is not None:
                self._check_unchanged(before, effective)
            output = self._with_penalty(output)
            if effective and plain and torch.is_grad_enabled():
                self._recompute.in_backward_of(output, effective)
            return output

    def _alone(self) -> AbstractContextManager[Any]:
        """Let other threads wait, which would take this thread's V for W."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            self.__prepare_scriptable__()
        return nullcontext() if torch.compiler.is_compiling() else self._lock

    @contextmanager
    def effective(self, of: str | None = None) -> Iterator[nn.Module]:
        """Let the network itself compute with V inside of the context, which gives the network.

        For its other methods (`generate`), and for losses that take the network. Gradients reach
        R; call `backward` inside if the network checkpoints activations. V is made at the start and
        after each step, so one `backward` must follow all of a step's losses.

        of: the network's method that runs inside.
        Raises UserError if V was written to inside: it is made anew from W and R.
        """
        with self._alone():
            if self._swap is not None:
                yield self.network
                return
            self._put_V()
            try:
                yield self.network
            except BaseException:
                if self._swap:  # or else `renew` has failed
                    self._put_W()
                raise
            self._check_unwritten(of, self._put_W())

    def _put_V(self) -> None:
        values = self.effective_weights()
        self._sums = self._checked_sums(values) if eager() else {}
        self._swap = Swap(self._recompute.places, values)

    def _put_W(self) -> Swap:
        """Put W back in its place, and return the ended swap."""
        swap, self._swap = self._swap, None
        assert swap is not None
        swap.end()
        return swap

    def renew(self, optimizer: Optimizer) -> None:
        """Make V anew inside of `effective` after a step, but not in a backward pass."""
        if self._swap is None or torch._C._current_graph_task_id() != -1:
            return
        if not parameter_ids(optimizer).isdisjoint(map(id, self.parameters())):
            self._check_unwritten(None, self._put_W())
            with torch.enable_grad():
                self._put_V()

    def _check_unwritten(self, of: str | None, swap: Swap) -> None:
        if names := self._changed(self._sums, swap.values):
            raise UserError(
                f"{of or 'the code inside of opt.effective()'} writes to the weights of "
                f"{listed(names)}. That is lost: V is made of W and R each time. Undo what else it "
                "changed, and call it before OPT takes the network"
            )

    def w_in_place(self) -> AbstractContextManager[None]:
        """Put W in its place for the context.

        V is there inside of `effective`, and while a backward pass runs.
        """
        if torch.compiler.is_compiling():
            return nullcontext()
        swap = self._swap or self._recompute.swap()
        return swap.paused() if swap else nullcontext()

    def _checked_sums(self, effective: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the sum of each V, and raise UserError where the network would not get it."""
        apart = [name for name in effective if is_sharded(held(self.network, name))]
        if apart:
            raise UserError(
                f"{apart[0]} is sharded apart from OPT, and Q(R) needs all of it: use fully_shard("
                "opt) on the whole of OPT, without tensor parallelism or shards of its parts, and "
                "call opt(...) itself, not opt.effective() or a method of the network"
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
        if names := self._changed(before, effective):
            raise UserError(
                f"the network writes to its weights in the forward pass (`weight.data *= mask`): "
                f"{', '.join(names)}. No gradient sees that: multiply in the forward instead, or "
                f"leave the layers out: exclude={[name.rpartition('.')[0] for name in names]}"
            )
        self._unchecked = False

    def _changed(self, before: Mapping[str, Tensor], effective: Mapping[str, Tensor]) -> list[str]:
        """Return the names of the V that have other sums than before."""
        after = self._checked_sums(effective)
        return [
            name
            for name, total in before.items()
            if not torch.equal(total, after[name]) and not after[name].isnan()
        ]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state as any module, with W also where V is in its place."""
        with self.w_in_place():
            return super().state_dict(*args, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the parameters as any module, with W also where V is in its place."""
        if torch.compiler.is_compiling():
            return super().named_parameters(*args, **kwargs)
        with self.w_in_place():
            return iter([*super().named_parameters(*args, **kwargs)])

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._refuse_inside("load_state_dict")
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._refuse_inside("Moving OPT, or another type for it,")
        return super()._apply(*args, **kwargs)

    def _refuse_inside(self, what: str) -> None:
        if self._swap or self._recompute.swap():
            raise UserError(
                f"{what} needs W, and V is in its place inside of opt.effective() and of a "
                "backward pass: leave it first"
            )

    def effective_weights(self) -> dict[str, Tensor]:
        """Return {parameter name: V} of the layers whose V is not W.

        V is made in float32 also under autocast and for a network in a half precision, and given
        in the network's type. In bfloat16 Q^T Q - I would be 4e-3 and more, and decompositions have
        no such kernels.
        """
        if self._swap is not None:
            return dict(self._swap.values)
        made_of: dict[str, list[tuple[Layer, Tensor]]] = {}
        for number, (method, stacks) in enumerate(self.parts()):
            if not method.changes_weight:
                continue
            made = self._make(method, stacks)
            for stack, (_, V) in zip(stacks, made, strict=True):
                for layer, weight in stack.as_weights(V):
                    made_of.setdefault(layer.parameter, []).append((layer, weight))
            if method.has_penalty and torch.is_grad_enabled() and not transformed():
                self._last[number] = made
        with self.w_in_place():
            return {
                name: assembled(whole(held(self.network, name)), of_parameter)
                for name, of_parameter in made_of.items()
            }

    def _make(self, method: Method, stacks: Sequence[Stack]) -> list[tuple[Tensor, Tensor]]:
        """Return W and V, each (k, d, n), of each stack of a method."""
        if any(stack.empty for stack in stacks):
            raise UserError(
                "R has no values since to_empty: call opt.reset_parameters(), or load a state"
            )
        with self.w_in_place(), _no_autocast(next(self.network.parameters())):
            if not transformed():
                for stack in stacks:
                    stack.check_weight()
            Ws = [stack.W() for stack in stacks]
        with _no_autocast(Ws[0]):
            Vs = method.weights(Ws, [stack.tensors for stack in stacks])
        return list(zip(Ws, Vs, strict=True))

    def penalty(self) -> Tensor:
        """Return what the methods add to the loss of the step that is being made: a scalar.

        It is 0 for most, and where the output's own `loss` has it already. It uses the V of the
        forward pass before it, once: call it after `opt(x)`, as a step does.
        """
        zero = torch.zeros((), device=next(self.network.parameters()).device)
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
        if not torch.is_grad_enabled() or not self._has_penalty:
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
    def _has_penalty(self) -> bool:
        return any(method.has_penalty for method, _ in self._parts)


def _no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)
