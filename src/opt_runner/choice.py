"""Which layers a method covers."""

import copy
import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Self

from torch import nn

from opt_runner.candidates import Candidate
from opt_runner.coverage import check_unregistered, little_covered, types_of_matrices
from opt_runner.errors import UserError, explained, listed, nearest
from opt_runner.layers import Layer
from opt_runner.methods import METHODS, Method

# Why no rotation moves a layer, by the note of a summary.
STILL = {
    "zero at the start": "W is zero at the start, and no rotation moves it",
    "d = 1": "d = 1, and one dimension has nothing to rotate",
}


class Rule:
    """A method, and the layers that it takes of those that the rules before it have left.

    method: a name, one of `opt_runner.methods.METHODS`, with its options as keywords, or a
        `Method`.
    include: patterns of names, as "encoder.*.linear?" (see `fnmatch`); the name of a module stands
        for all of its layers. What they match is covered whatever the method says, also heads,
        embeddings and recurrent weights. Default: every linear layer, convolution, projection of
        attention and layer of a registered type (`register_layer`) that the method covers, for most
        all but those that end in an output or are tied to an embedding.
    exclude: patterns of names that are not covered. types: cover only these module classes, or
        their names; also a way to ask for embeddings and recurrent modules. max_d: the largest d
        that is covered; a rotation has d^2 entries.

    An already frozen parameter is covered only if `include` has its exact name.

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
        """Return this rule with its method starting where V = W."""
        changed = copy.copy(self)
        changed.method = self.method.at_identity()
        return changed

    def considers(self, one: Candidate) -> bool:
        """Return True if the method is asked about the layer."""
        if self.include is not None and not _matches(one, self.include):
            return False
        if self.types is not None and not _is_of(one.type, self.types):
            return False
        if one.on_demand and self.include is None and self.types is None:
            return False
        if one.frozen and not self.names(one):
            return False
        if self.max_d is not None and one.layer.d > self.max_d:
            return False
        return not _matches(one, self.exclude)

    def covers(self, layer: Layer) -> bool:
        """Return True if the method covers a layer that it is asked about."""
        return self.include is not None or self.method.covers(layer)

    def names(self, one: Candidate) -> bool:
        """Return True if `include` has the layer's or module's own name, not a pattern of it."""
        return bool(set(one.names) & set(self.include or ()))

    def check(self, network: nn.Module, every: Sequence[Candidate]) -> None:
        """Raise UserError for a pattern or a type that nothing is of: a typing error."""
        names = [one.layer.name for one in every]
        some = listed(names)
        for key, patterns in {"include": self.include, "exclude": self.exclude}.items():
            for pattern in patterns or ():
                if not any(_matches(one, [pattern]) for one in every):
                    check_unregistered(network, pattern)
                    raise UserError(
                        f"{key}: {pattern!r} is no layer that can be covered"
                        f"{nearest(pattern, names)} ({some})"
                    )
        modules = dict(network.named_modules(remove_duplicate=False))
        for wanted in self.types or ():
            if not any(_is_of(one.type, [wanted]) for one in every):
                there = sorted({one.type.__name__ for one in every})
                name = wanted if isinstance(wanted, str) else wanted.__name__
                for one in every:
                    elsewhere = [modules[other] for other in one.others if other in modules]
                    if any(_is_of(type(module), [wanted]) for module in elsewhere):
                        raise UserError(
                            f"types: the weight of {name!r} is also the weight of "
                            f"{one.layer.name!r}, which counts as {one.type.__name__}: name it, "
                            f"include=[{one.layer.name!r}]"
                        )
                raise UserError(
                    f"types: {name!r} is no type of a layer here{nearest(name, there)} "
                    f"({', '.join(there)})"
                )


@dataclass(frozen=True)
class Choice:
    """Which layers are covered.

    covered: the layers of each rule. hidden: the layers whose neurons are measured: all that the
    methods are asked about, except heads that are not named. notes: {name: why}
    of layers that stay plain, or of which the summary has something else to say.
    """

    covered: list[list[Layer]]
    hidden: list[Layer]
    notes: dict[str, str] = field(default_factory=dict)

    def without(
        self, still: Mapping[str, str], every: Sequence[Candidate], rules: Sequence[Rule]
    ) -> "Choice":
        """Return the choice without layers that no rotation moves, and warn of them.

        still: {name: note}, a note of `STILL`.
        Raises UserError for one that is named, and for a part of a parameter whose rest is fixed.
        """
        for one in every:
            if one.layer.name in still and any(rule.names(one) for rule in rules):
                raise UserError(
                    f"layer {one.layer.name!r} cannot be covered: {STILL[still[one.layer.name]]}; "
                    "it trains plainly if `include` does not name it"
                )
        covered = [[layer for layer in some if layer.name not in still] for some in self.covered]
        _check_packed(every, dict(zip(rules, covered, strict=True)))
        for note, reason in STILL.items():
            if names := sorted(name for name in still if still[name] == note):
                warnings.warn(f"{listed(names)}: trained plainly, as {reason}", stacklevel=3)
        hidden = [layer for layer in self.hidden if layer.name not in still]
        return Choice(covered, hidden, {**self.notes, **still})


def choose(network: nn.Module, every: Sequence[Candidate], rules: Sequence[Rule]) -> Choice:
    """Give each layer to the first rule that considers it.

    Raises UserError where no layer is covered, or one that cannot be, or a part of a parameter
    whose rest trains.
    """
    for given in rules:
        given.check(network, every)
    covered: dict[Rule, list[Layer]] = {rule: [] for rule in rules}
    hidden: list[Layer] = []
    first: str | None = None
    for one in every:
        rule = next((rule for rule in rules if rule.considers(one)), None)
        if rule is None:
            continue
        first = first or one.layer.parameter
        layer = replace(one.layer, first=one.layer.parameter == first)
        if rule.include is not None or not layer.output:
            hidden.append(layer)
        if rule.covers(layer):
            if one.obstacle:
                raise UserError(
                    f"layer {layer.name!r} cannot be covered: {one.obstacle}; undo that, or leave "
                    f"the layer out: exclude=[{layer.name!r}]"
                )
            covered[rule].append(layer)
    if not any(covered.values()):
        methods = " or ".join(type(rule.method).__name__ for rule in rules)
        frozen = sum(one.frozen for one in every)
        others = types_of_matrices(network, {one.layer.parameter for one in every})
        raise UserError(
            f"{methods} covers no layer of {type(network).__name__}: {frozen} of {len(every)} are "
            "frozen, which OPT does not cover. Output layers are covered only if named: "
            "include=[...]"
            + (f"; opt_runner.register_layer makes layers of {others}" if others else "")
        )
    _check_packed(every, covered)
    notes = {one.layer.name: "own forward" for one in every if one.own_forward}
    outputs = {one.layer.name for one in every if one.layer.output}
    if len(outputs) > 1:
        plain = outputs - {layer.name for layers in covered.values() for layer in layers}
        notes |= dict.fromkeys(plain, "output")
    return Choice(list(covered.values()), hidden, notes)


def few_covered(
    network: nn.Module, every: Sequence[Candidate], choice: Choice, rule: Rule
) -> str | None:
    """Return a warning if a rule without a choice of layers covers little of the network."""
    if rule.include is not None or rule.exclude or rule.types is not None or rule.max_d is not None:
        return None
    covered = {layer.parameter for layer in choice.covered[0]}
    still = {one.layer.parameter for one in every if choice.notes.get(one.layer.name) in STILL}
    return little_covered(network, every, covered, still) if covered else None


def _check_packed(every: Sequence[Candidate], covered: Mapping[Rule, Sequence[Layer]]) -> None:
    """Raise UserError unless each parameter is frozen, or trains, as a whole."""
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
    with explained(method, inspect.signature(cls).parameters):
        return cls(**options)
