"""Which layers a method covers."""

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Self

from pydantic import ValidationError
from torch import nn

from opt_runner.errors import UserError, explain, nearest
from opt_runner.layers import Candidate, Layer
from opt_runner.methods import METHODS, Method

# Of names, in a message.
_MOST = 20


class Rule:
    """A method, and the layers that it takes of those that the rules before it have left.

    method: a name, one of `opt_runner.methods.METHODS`, with its options as keywords, or a
        `Method`.
    include: patterns of names, as "encoder.*.linear?" (see `fnmatch`); the name of a module stands
        for all of its layers. What they match is covered whatever the method says, also the
        classifier, embeddings and recurrent weights. Default: every linear layer, convolution and
        projection of attention that the method covers, for most all but the last in module order.
    exclude: patterns of what is not covered. types: module classes, or names of such, that are
        covered alone; embeddings and recurrent modules may be asked for so as well. max_d: the
        largest d that is covered; a rotation has d^2 entries.

    A parameter that does not train when OPT gets the network stays as it is, but where `include`
    has its name, not as a pattern.

    Raises UserError for an unknown method or option.
    """

    def __init__(
        self,
        method: str | Method,
        *,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        types: Sequence[str | type[nn.Module]] | None = None,
        max_d: int | None = None,
        **options: Any,
    ) -> None:
        for key, patterns in {"include": include, "exclude": exclude, "types": types}.items():
            if isinstance(patterns, str):
                raise UserError(f"{key}={patterns!r} must be a list: {key}=[{patterns!r}]")
        self.method = _build_method(method, options)
        self.include = include
        self.exclude = exclude
        self.types = types
        self.max_d = max_d

    def at_identity(self) -> Self:
        """This rule with its method starting where V = W."""
        changed = copy.copy(self)
        changed.method = self.method.at_identity()
        return changed

    def considers(self, one: Candidate) -> bool:
        """Whether the layer is one of those that the method is asked about."""
        included = self.include is not None and _matches(one, self.include)
        by_type = self.types is not None and _is_of(one.type, self.types)
        if self.include is not None and not included:
            return False
        if self.types is not None and not by_type:
            return False
        if one.on_demand and not (included or by_type):
            return False
        if one.frozen and not set(one.names) & set(self.include or ()):
            return False
        if self.max_d is not None and one.layer.d > self.max_d:
            return False
        return not _matches(one, self.exclude)

    def covers(self, layer: Layer) -> bool:
        """Whether the method covers a layer that it is asked about."""
        return self.include is not None or self.method.covers(layer)

    def check(self, every: Sequence[Candidate]) -> None:
        """Raise UserError for a pattern or a type that nothing is of: a typing error."""
        names = [one.layer.name for one in every]
        some = ", ".join(names[:_MOST]) + (", ..." if len(names) > _MOST else "")
        for key, patterns in {"include": self.include, "exclude": self.exclude}.items():
            for pattern in patterns or ():
                if not any(_matches(one, [pattern]) for one in every):
                    raise UserError(
                        f"{key}: {pattern!r} is no layer that can be covered"
                        f"{nearest(pattern, names)} ({some})"
                    )
        for wanted in self.types or ():
            if not any(_is_of(one.type, [wanted]) for one in every):
                there = sorted({one.type.__name__ for one in every})
                name = wanted if isinstance(wanted, str) else wanted.__name__
                raise UserError(
                    f"types: {name!r} is no type of a layer here{nearest(name, there)} "
                    f"({', '.join(there)})"
                )


@dataclass(frozen=True)
class Choice:
    """covered: the layers of each rule. hidden: all layers whose neurons are looked at, which are
    those that the methods are asked about, but for a classifier that nobody has named."""

    covered: list[list[Layer]]
    hidden: list[Layer]


def choose(network: str, every: Sequence[Candidate], rules: Sequence[Rule]) -> Choice:
    """The first rule that considers a layer has it.

    network: its name, for messages. Raises UserError where no layer is covered, or one that cannot
    be, or a part of a parameter whose rest trains.
    """
    for rule in rules:
        rule.check(every)
    taken: list[tuple[Candidate, Rule]] = []
    for one in every:
        rule_of_it = next((rule for rule in rules if rule.considers(one)), None)
        if rule_of_it is not None:
            taken.append((one, rule_of_it))
    covered: dict[Rule, list[Layer]] = {rule: [] for rule in rules}
    hidden: list[Layer] = []
    for one, rule in taken:
        first = one.layer.parameter == taken[0][0].layer.parameter
        layer = replace(one.layer, first=first)
        if rule.include is not None or not layer.output:
            hidden.append(layer)
        if rule.covers(layer):
            _check_obstacle(one)
            covered[rule].append(layer)
    if not any(covered.values()):
        methods = " or ".join(type(rule.method).__name__ for rule in rules)
        frozen = sum(one.frozen for one in every)
        raise UserError(
            f"{methods} covers no layer of {network}: of {len(every)} layers {frozen} are frozen, "
            "as OPT leaves those of a network that it has been given, and the last, the "
            "classifier, is covered only where it is named: include=[...]"
        )
    _check_packed(every, covered)
    return Choice(list(covered.values()), hidden)


def _check_obstacle(one: Candidate) -> None:
    if one.obstacle:
        name = one.layer.name
        raise UserError(
            f"layer {name!r} cannot be covered: {one.obstacle}; undo that, or leave the layer out: "
            f"exclude=[{name!r}]"
        )


def _check_packed(every: Sequence[Candidate], covered: Mapping[Rule, Sequence[Layer]]) -> None:
    """A parameter is frozen, or trains, as a whole."""
    fixed = {
        layer.name
        for rule, layers in covered.items()
        if not rule.method.trains_weight
        for layer in layers
    }
    of_parameter: dict[str, list[Candidate]] = {}
    for one in every:
        of_parameter.setdefault(one.layer.parameter, []).append(one)
    for parameter, parts in of_parameter.items():
        trains = [one.layer.name for one in parts if one.layer.name not in fixed]
        if trains and len(trains) < len(parts) and not parts[0].frozen:
            raise UserError(
                f"{parameter} holds {', '.join(one.layer.name for one in parts)}: W of a part of "
                f"it cannot be fixed while {', '.join(trains)} trains; cover all of them, or "
                f"freeze {parameter} before (requires_grad_(False))"
            )


def _matches(one: Candidate, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in one.names)


def _is_of(module: type[nn.Module], types: Iterable[str | type[nn.Module]]) -> bool:
    return any(wanted in (cls, cls.__name__) for wanted in types for cls in module.__mro__)


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
