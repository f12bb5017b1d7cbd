"""The optimizers of an OPT: how they are made, and what is checked when they step.

PyTorch calls its global hooks at every step of every optimizer. All but the first steps of an
optimizer end here after a look-up. The checks find mistakes that would pass without a word.
"""

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from opt_runner.errors import UserError
from opt_runner.methods import Method
from opt_runner.optimizers.inspection import (
    innermost,
    moved,
    moves_nothing,
    parameter_ids,
    with_inner,
)
from opt_runner.optimizers.joint import Joint

if TYPE_CHECKING:
    from opt_runner.opt import OPT

MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]


class Stepping:
    """The optimizers that step the parameters of an OPT."""

    def __init__(self, opt: "OPT") -> None:
        self._opt = weakref.ref(opt)
        self._attached: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        # Learning rates of the groups as `make` gave them.
        self._rates: weakref.WeakKeyDictionary[Optimizer, list[float]] = weakref.WeakKeyDictionary()
        self._checked: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._without_R: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # in this step
        self._done = False
        _watched.add(self)

    def make(
        self,
        opt: "OPT",
        make: MakeOptimizer | None,
        rotation_lr: float | None,
        weight_decay: float,
        **sgd: Any,
    ) -> Optimizer:
        """Return an attached optimizer for all that trains, see `OPT.optimizer`."""
        groups, owned = _groups(opt, make is not None, sgd["lr"], rotation_lr, weight_decay)
        optimizer: Optimizer
        if make is None and len(owned) <= 1:
            # A method's own class is SGD for all other groups.
            optimizer = next(iter(owned), torch.optim.SGD)(groups, **sgd)
        else:
            others = [group for group in groups if not group.get("retract")]
            parts: list[Optimizer] = [cls(own, **sgd) for cls, own in owned.items()]
            if others:
                parts.insert(0, make(others) if make else torch.optim.SGD(others, **sgd))
            optimizer = parts[0] if len(parts) == 1 else Joint(parts)
        self._follow(opt, optimizer)
        self._rates[optimizer] = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def attach(self, opt: "OPT", optimizer: Any) -> None:
        """Let an optimizer count the steps of OPT, see `OPT.attach`."""
        optimizer = innermost(optimizer)
        if optimizer in self._attached:
            return
        for method, _ in opt.parts():
            needed = method.optimizer_class
            if needed is not torch.optim.SGD and not _moves(optimizer, needed):
                raise UserError(
                    f"{type(method).__name__} needs {needed.__name__}, which opt.optimizer(...) "
                    f"makes, not {type(optimizer).__name__}"
                )
        self._follow(opt, optimizer)

    def _follow(self, opt: "OPT", optimizer: Optimizer) -> None:
        inner = list(with_inner(optimizer))
        self._attached.update(inner)
        self._checked.update(inner[1:])
        own = {id(p) for _, stacks in opt.parts() for stack in stacks for p in stack.own()}
        self._stepped.clear()
        outer_steps = False  # whether an optimizer that steps others is in its own step

        def before_step(*_: Any) -> None:
            nonlocal outer_steps
            outer_steps = True

        def after_step(of: Optimizer, *_: Any) -> None:
            nonlocal outer_steps
            if of is optimizer:
                outer_steps = False
            elif outer_steps:
                return
            # R is in the last groups.
            groups = reversed(of.param_groups)
            if not any(id(p) in own for group in groups for p in group["params"]):
                return  # one over all else does not count steps
            if moves_nothing(of):
                return
            # Of several, the first that steps twice begins a new step.
            if not self._stepped or of in self._stepped:
                self._stepped.clear()
                opt.after_step(optimizer)
            self._stepped.add(of)

        optimizer.register_step_pre_hook(before_step)
        for one in inner:
            one.register_step_post_hook(after_step)

    def check_before(self, optimizer: Optimizer) -> None:
        """Raise UserError before an optimizer that cannot step for a method, at its first step."""
        opt = self._opt()
        if opt is None or optimizer in self._checked:
            return
        held = parameter_ids(optimizer)
        attached = optimizer in self._attached
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
            needed = method.optimizer_class
            if needed is not torch.optim.SGD and not _moves(optimizer, needed):
                raise UserError(
                    f"{name} needs {needed.__name__}, which opt.optimizer(...) "
                    f"makes: {type(optimizer).__name__} would leave the rotations"
                )
            if method.follows_steps:
                raise UserError(
                    f"{name} changes with the steps: call opt.attach(optimizer) before the first"
                )
        self._checked.add(optimizer)

    def check_after(self, optimizer: Optimizer) -> None:
        """Check after its first step that an optimizer has moved what it should have moved."""
        opt = self._opt()
        if opt is None:
            return
        opt.renew(optimizer)
        if self._done or moves_nothing(optimizer):
            return
        held = parameter_ids(optimizer)
        if not any(moved(parameter, optimizer) for parameter in opt.parameters()):
            return  # a step before the first backward pass
        trained = [
            tensor
            for method, stacks in opt.parts()
            if method.changes_weight
            for stack in stacks
            for tensor in stack.trained.values()
            if tensor.requires_grad and tensor.numel()  # one plane of `givens` needs two rows
        ]
        mine = [tensor for tensor in trained if id(tensor) in held]
        if trained and not mine:
            self._step_without_R(opt, optimizer, held)
            return
        if mine and not any(moved(tensor, optimizer) for tensor in mine):
            raise UserError(
                "no R has a gradient: the loss does not come from opt(...), which runs the network "
                "on V = Q(R) W. Call opt(x) in place of the network, or compute the loss inside "
                "`with opt.effective() as network:`. (Or the method is your own and its V does not "
                "depend on R)"
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
        """Warn at the second step of an optimizer over the network if none has stepped R."""
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
        made = self._rates.get(optimizer, [])
        now = {float(group["lr"]) for group in optimizer.param_groups}
        if len(set(made)) > 1 and len(now) == 1 and now != {0.0}:  # 0: a warm-up begins
            warnings.warn(
                f"the learning rates of the parameter groups were {made}, and a scheduler has made "
                f"all of them {now.pop():g}: give it one for each group, as OneCycleLR's "
                'max_lr=[group["lr"] for group in optimizer.param_groups]',
                stacklevel=2,
            )


# Its hooks must stay: PyTorch goes through them when the garbage collector may remove an OPT.
_watched: weakref.WeakSet[Stepping] = weakref.WeakSet()


def _before_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    if not torch.compiler.is_compiling():
        for one in _watched:
            one.check_before(optimizer)


def _after_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    if not torch.compiler.is_compiling():
        for one in _watched:
            one.check_after(optimizer)


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)


def _moves(optimizer: Optimizer, needed: type[Optimizer]) -> bool:
    """Return True for a copy of an optimizer that opt.optimizer(...) has made."""
    return any(
        isinstance(one, needed) and any(group.get("retract") for group in one.param_groups)
        for one in with_inner(optimizer)
    )


def _groups(
    opt: "OPT", chosen: bool, lr: float, rotation_lr: float | None, weight_decay: float
) -> tuple[list[dict[str, Any]], dict[type[torch.optim.SGD], list[dict[str, Any]]]]:
    """Return the groups of an optimizer, and those of them that a method's own class must step.

    chosen: True if the user chose the optimizer. The groups then say which of them hold `matrices`.
    """
    hidden = {layer.parameter for layer in opt.hidden} if chosen else set()
    of_network: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in opt.network.named_parameters():
        if parameter.requires_grad:
            of_network[name in hidden].append(parameter)
    options = opt.method.optimizer_options(None, lr, weight_decay)
    groups = [
        {"params": of_network[False], **options},
        {"params": of_network[True], **options, "matrices": True},
    ]
    taken = rotation_lr is None  # by a tensor
    refused = f"{type(opt.method).__name__} trains nothing beside the network"
    owned: dict[type[torch.optim.SGD], list[dict[str, Any]]] = {}
    for method, stacks in opt.parts():
        trained: dict[str, list[nn.Parameter]] = {}
        for stack in stacks:
            for name, parameter in stack.trained.items():
                trained.setdefault(name, []).append(parameter)
        for name, parameters in trained.items():
            group: dict[str, Any] = {"params": parameters}
            if rotation_lr is None or _has_own_rate(method, name, lr, weight_decay):
                group |= method.optimizer_options(name, lr, weight_decay)
                refused = (
                    f"{type(method).__name__} has an option of its own for the learning rate of "
                    f"{name}, such as method.rotation_lr"
                )
            else:
                group |= method.optimizer_options(name, rotation_lr, weight_decay)
                taken = True
            if group.get("retract"):
                owned.setdefault(method.optimizer_class, []).append(group)
            elif chosen and parameters[0].ndim > 2:  # not the angles of `givens`
                group |= {"matrices": True, "stacked": True}
            groups.append(group)
    if not taken:
        raise UserError(f"optimizer.rotation_lr: {refused}")
    return [group for group in groups if group["params"]], owned


def _has_own_rate(method: Method, name: str, lr: float, weight_decay: float) -> bool:
    """Return True if the method's rate for the tensors of this name does not depend on `lr`."""
    once, twice = (method.optimizer_options(name, k * lr, weight_decay)["lr"] for k in (1, 2))
    return bool(once == twice)
