"""What OPT looks at when an optimizer steps: mistakes that would pass without a word.

PyTorch calls its global hooks at every step of every optimizer. All but the first steps of an
optimizer end here after a look-up.
"""

import warnings
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from opt_runner.errors import UserError

if TYPE_CHECKING:
    from opt_runner.opt import OPT


class Steps:
    """The optimizers of an OPT, and the checks of their first steps."""

    def __init__(self, opt: "OPT") -> None:
        self.attached: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        # Learning rates of the groups as `OPT.optimizer` made them.
        self.rates: weakref.WeakKeyDictionary[Optimizer, list[float]] = weakref.WeakKeyDictionary()
        self._opt = weakref.ref(opt)
        self._checked: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._without_R: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._done = False
        for handle in (
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ):
            weakref.finalize(opt, handle.remove).atexit = False

    def _before(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Raise UserError before an optimizer that cannot step for a method, at its first step."""
        opt = self._opt()
        if torch.compiler.is_compiling() or opt is None or optimizer in self._checked:
            return
        held = _held(optimizer)
        attached = optimizer in self.attached
        if attached and held.isdisjoint(id(p) for p in opt.parameters()):
            raise UserError(
                "the optimizer steps none of OPT's parameters: they were replaced after it was "
                "made, as fully_shard, to_empty or load_state_dict(assign=True) do; make it later"
            )
        for method, stacks in opt.parts():
            own = {id(p) for stack in stacks for p in stack.own()}
            if attached or own.isdisjoint(held):
                continue
            name = type(method).__name__
            if method.optimizer_class is not torch.optim.SGD:
                raise UserError(
                    f"{name} needs {method.optimizer_class.__name__}, which opt.optimizer(...) "
                    f"makes: {type(optimizer).__name__} would leave the rotations"
                )
            if method.follows_steps:
                raise UserError(
                    f"{name} changes with the steps: call opt.attach(optimizer) before the first"
                )
        self._checked.add(optimizer)

    def _after(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Check after its first step that an optimizer has moved what it should have moved."""
        opt = self._opt()
        if self._done or opt is None or torch.compiler.is_compiling():
            return
        held = _held(optimizer)
        trained = [
            tensor
            for method, stacks in opt.parts()
            if method.changes_weight
            for stack in stacks
            for tensor in stack.trained.values()
            if tensor.requires_grad
        ]
        mine = [tensor for tensor in trained if id(tensor) in held]
        if trained and not mine:
            self._step_without_R(opt, optimizer, held)
            return
        if mine and not any(_moved(tensor, optimizer) for tensor in mine):
            raise UserError(
                "no R has a gradient: the loss does not come from opt(...), which runs the network "
                "on V = Q(R) W. Call opt(x) in place of the network, or compute the loss inside "
                "`with opt.effective() as network:`"
            )
        if opt.lacks_penalty and not held.isdisjoint(id(p) for p in opt.parameters()):
            warnings.warn(
                "a step was made without the method's penalty: loss = criterion(opt(x), y) + "
                "opt.penalty(). It is added by itself to the `loss` of an output alone",
                stacklevel=2,
            )
        self._check_rates(optimizer)
        self._done = True

    def _step_without_R(self, opt: "OPT", optimizer: Optimizer, held: set[int]) -> None:
        """Warn at the second step of an optimizer over the network if no other one has stepped R."""
        if held.isdisjoint(id(p) for p in opt.network.parameters()):
            return
        if optimizer in self._without_R:
            self._done = True
            warnings.warn(
                "two steps were made, and no optimizer has an R among its parameters: make it over "
                "opt.parameters(), which has those of the network as well",
                stacklevel=2,
            )
        self._without_R.add(optimizer)

    def _check_rates(self, optimizer: Optimizer) -> None:
        made = self.rates.get(optimizer, [])
        now = {float(group["lr"]) for group in optimizer.param_groups}
        if len(set(made)) > 1 and len(now) == 1:
            warnings.warn(
                f"the learning rates of the parameter groups were {made}, and a scheduler has made "
                f"all of them {now.pop():g}: give it one for each group, as OneCycleLR's "
                'max_lr=[group["lr"] for group in optimizer.param_groups]',
                stacklevel=2,
            )


def innermost(optimizer: Any) -> Optimizer:
    """Return the optimizer inside of a framework's wrapper, as accelerate's and Lightning's."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    found: Optimizer = optimizer
    return found


def _held(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _moved(tensor: Tensor, optimizer: Optimizer) -> bool:
    """Return True if the tensor had a gradient: some optimizers drop it, and keep a state."""
    return tensor.grad is not None or tensor in optimizer.state
