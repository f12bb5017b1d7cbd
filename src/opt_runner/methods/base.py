"""What a method is: what trains for a layer, the weight made of it, the penalty, the optimizer."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.optim import Optimizer

from opt_runner.layers import Layer

if TYPE_CHECKING:
    from opt_runner.methods.stack import Stack

Tensors = Mapping[str, Tensor]
Options = dict[str, Any]  # of a parameter group
Coefficient = Annotated[float, Field(ge=0, le=1e6)]  # of a term of the loss
MaybeGenerator = torch.Generator | None  # None: torch's global one

# Unknown options are errors, and a method never changes once built.
method_options = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))


@method_options
class Method:
    """How the layers of a network train. This base class is plain training: V = W, and W trains.

    A method is one file: subclass this, decorate with `@method_options`, and override what differs.
    All layers that are alike (same d and n, same `kind`) are worked on together, as a stack of k:
    W and V are (k, d, n), neurons are columns. `draw` and `init` are asked layer by layer, for
    W (d, n); a tensor of shape (...) that they give moves to W's device and floating-point type,
    and comes back to the others as (k, ...), by its name:

        class TwoSided(Method):                       # V = Q(R) W Q(P)
            def init(self, layer, W, generator, **fixed):
                return {"R": torch.randn(layer.d, layer.d, generator=generator),
                        "P": torch.randn(layer.n, layer.n, generator=generator)}
            def weight(self, W, R, P):
                return Q(R) @ W @ Q(P)

    label: the method's name in tables and pictures; None: the name that its config has.
    colour: its colour in pictures, as #rrggbb; None: one is chosen.
    family: what it is akin to; methods of one family stand together and have similar colours.
    optimizer_class: what steps; torch.optim.SGD or one derived from it.
    search: what a fair comparison tunes: keys of the config and their ranges, in Hydra's grammar;
        see `searched`. Attributes without an annotation, as these, are no options.

    Where options do not suit a layer, such as blocks that do not divide its d, `init` and the
    others raise `opt_runner.errors.UserError`.
    """

    label: ClassVar[str | None] = None
    colour: ClassVar[str | None] = None
    family: ClassVar[str | None] = None
    optimizer_class: ClassVar[type[torch.optim.SGD]] = torch.optim.SGD
    search: ClassVar[Mapping[str, str]] = {
        "optimizer.lr": "tag(log,interval(0.003,0.3))",
        "optimizer.weight_decay": "tag(log,interval(1e-5,1e-2))",
    }

    @property
    def trains_weight(self) -> bool:
        """Return True if W itself trains; otherwise it is frozen."""
        return not self.changes_weight

    def covers(self, layer: Layer) -> bool:
        """Return True if the method applies to this layer; other layers train as they are."""
        return not layer.output

    def turns(self, layer: Layer) -> bool:
        """Return True if the method can change V of a layer of this d, whatever W is."""
        return True

    def kind(self, layer: Layer) -> Hashable:
        """Return a key: layers of equal d, n and kind share a stack."""
        return None

    def initial_weight(self, layer: Layer, W: Tensor, generator: MaybeGenerator) -> Tensor:
        """Return W (d, n) at its start, made from the network's own W (d, n).

        Draw on the CPU, as for `init`: every device then starts alike.
        """
        return W

    def draw(self, layer: Layer, W: Tensor, generator: torch.Generator) -> Tensors:
        """Return tensors that no optimizer changes, such as sopt's rows."""
        return {}

    def redraw(self, layer: Layer, W: Tensor, generator: torch.Generator) -> Tensors:
        """Return the drawn tensors that a `Stack.restart` draws again; the others stay."""
        return self.draw(layer, W, generator)

    def init(self, layer: Layer, W: Tensor, generator: MaybeGenerator, **fixed: Tensor) -> Tensors:
        """Return the tensors that train for W (d, n), at their start; fixed: those of `draw`."""
        return {}

    def copies(self, W: Tensor) -> bool:
        """Return True if V is made without W (d, n), of what `draw` and `init` took from it."""
        return False

    def weight(self, W: Tensor, *args: Any, **tensors: Any) -> Tensor:
        """Return the effective weight V (k, d, n), differentiable in the trained tensors."""
        return W

    def weights(self, Ws: Sequence[Tensor], tensors: Sequence[Tensors]) -> list[Tensor]:
        """Return `weight` of all stacks: some methods are faster on all of them together."""
        return [self.weight(W, **of_stack) for W, of_stack in zip(Ws, tensors, strict=True)]

    def penalty(
        self, layer: Layer, W: Tensor, V: Tensor, step: int, *args: Any, **tensors: Any
    ) -> Tensor | None:
        """Return a term for the loss of a step = 1, 2, ..., summed over the stack, or None.

        layer: the first of the stack; all have the same sizes and kind.
        Random numbers come from torch's global generators, because checkpoints keep these.
        """
        return None

    def measure(self, W: Tensor, V: Tensor, *args: Any, **tensors: Any) -> Tensors:
        """Return measurements for every test, name -> (k,); the largest value is reported.

        A method with a Q returns `orthogonality_error`: the largest entry of |Q^T Q - I|.
        """
        return {}

    def optimizer_options(self, tensor: str | None, lr: float, weight_decay: float) -> Options:
        """Return options of the parameter group of the tensor that `init` returned by this name.

        None: the group of all else that trains, as BatchNorm, the classifier and W where it trains.
        `milestone_factor`, where given, replaces the recipe's factor at the milestones.
        """
        return {"lr": lr, "weight_decay": weight_decay}

    def after_step(self, stacks: "Sequence[Stack]", step: int, optimizer: Optimizer) -> None:
        """Act after each step of the optimizer, without gradients: here a round ends."""

    def scaled_to(self, steps: int) -> Self:
        """Return this method with the options that depend on the budget set for `steps`."""
        return self

    def at_identity(self) -> Self:
        """Return this method with options that let V start at W, for given weights."""
        return self

    @property
    def follows_steps(self) -> bool:
        """Return True if the method must know when an optimizer has stepped: see `OPT.attach`."""
        return type(self).after_step is not Method.after_step

    @property
    def has_tensors(self) -> bool:
        """Return True if layers have tensors of the method's own."""
        cls = type(self)
        return cls.init is not Method.init or cls.draw is not Method.draw

    @property
    def changes_weight(self) -> bool:
        """Return True if V is not W itself."""
        cls = type(self)
        return cls.weight is not Method.weight or cls.weights is not Method.weights

    @property
    def has_penalty(self) -> bool:
        """Return True if the method adds a term to the loss."""
        return type(self).penalty is not Method.penalty


def searched(base: Mapping[str, str] = Method.search, **options: str) -> Mapping[str, str]:
    """Return a `Method.search`: the ranges of `base`, and these of options of the method."""
    return {**base, **{f"method.{option}": values for option, values in options.items()}}
