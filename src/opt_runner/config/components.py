"""Components: methods, networks and datasets that the config names by `_target_`.

A component is a class or a function, of the package or of a user. Its annotated signature is the
schema of its options: `Annotated[int, Field(gt=0)]` and `Literal[...]` say which values are
allowed. Options are checked before any work starts.
"""

import inspect
import logging
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Self, TypeVar

from hydra.utils import get_object
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    create_model,
    model_validator,
)

from opt_runner.errors import UserError, explained, nearest

T = TypeVar("T")


def _no_old(name: str) -> str:
    """Refuse a name with which reports mark old records."""
    if ".old-" in name:
        raise ValueError(f"{name!r} must not contain '.old-', which marks records set aside")
    return name


# A name for folders and tables.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$"), AfterValidator(_no_old)]


def refuse_booleans(given: Any, checked: Mapping[str, Any]) -> None:
    """Raise ValueError if pydantic read true or false as a number."""
    for key, value in given.items() if isinstance(given, Mapping) else ():
        found = checked.get(key)
        pairs = [(value, found)]
        if isinstance(value, list | tuple) and isinstance(found, list | tuple):
            pairs = list(zip(value, found, strict=False))
        for one, became in pairs:
            number = isinstance(became, int | float) and not isinstance(became, bool)
            if isinstance(one, bool) and number:
                raise ValueError(f"{key} must be a number, got {str(one).lower()}")


class Node(BaseModel):
    """A node of the config; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _numbers(cls, content: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse true for 1, which pydantic allows."""
        node = handler(content)
        refuse_booleans(content, vars(node))
        return node


class Component(Node):
    """A node of the config: `name` for directories and tables, `_target_`, and options."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: Name
    target: str = Field(alias="_target_")
    passed_on: ClassVar[frozenset[str]] = frozenset()  # keys of the group that the class gets, too

    @property
    def options(self) -> dict[str, Any]:
        return self.model_extra or {}


def check(
    component: Component, where: str, supplied: frozenset[str] = frozenset(), whole: bool = False
) -> None:
    """Raise UserError if the target does not exist or does not take the options.

    supplied: the names of parameters that `build` gets in addition to the options.
    whole: build the component as well, as its options must go together.
    """
    _check(type(component), component.model_dump_json(by_alias=True), where, supplied, whole)


@cache
def _check(
    kind: type[Component], content: str, where: str, supplied: frozenset[str], whole: bool
) -> None:
    """Check a component; cached, because the runs of a sweep share few components."""
    component = kind.model_validate_json(content)
    if whole:
        build(component, where, object)
    else:
        _validated_options(component, where, supplied)


def build(component: Component, where: str, kind: type[T], **supplied: Any) -> T:
    """Return the target called with its options, and with those of `supplied` that it takes.

    A supplied value fills a parameter that the config leaves out or sets to null.
    Raises UserError for wrong options, and if the target does not make a `kind`.
    """
    options = _validated_options(component, where, frozenset(supplied))
    called = target(component, where)
    accepted = inspect.signature(called).parameters
    for key, value in supplied.items():
        if key in accepted and options.get(key) is None:
            options[key] = value
    with explained(where, accepted):
        made = called(**options)
    if not isinstance(made, kind):
        raise UserError(
            f"{where}._target_: {component.target} makes {type(made).__name__}, but must make: "
            f"{kind.__name__.lower()}"
        )
    return made


def unfilled(component: Component, where: str) -> frozenset[str]:
    """Return the parameters without a default to which the component gives no value."""
    parameters = inspect.signature(target(component, where)).parameters
    return frozenset(
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and component.options.get(name) is None
    )


def named_method(name: str, options: dict[str, Any], where: str) -> Component:
    """Return the component of a method, given by its name or by the dotted path of its class.

    Raises UserError if there is no such method.
    """
    from opt_runner.methods import METHODS  # imports torch, which is slow

    path = name
    if name in METHODS:
        path = f"{METHODS[name].__module__}.{METHODS[name].__name__}"
    elif "." not in name:
        raise UserError(
            f"{where}.method: no method {name!r}{nearest(name, METHODS)} "
            f"({', '.join(METHODS)}, or module.Class)"
        )
    return Component.model_validate({"name": name, "_target_": path, **options})


def target(component: Component, where: str) -> Any:
    """Return the class or function. Raises UserError if it cannot be imported or called."""
    log = logging.getLogger("hydra.utils")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the reason is in our line
    try:
        found = get_object(component.target)
    except Exception as error:
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {cause}" if error.__cause__ else str(error)
        raise UserError(
            f"{where}._target_: cannot import {component.target!r}: {reason.splitlines()[-1]}"
        ) from error
    finally:
        log.setLevel(level)
    if not callable(found):
        raise UserError(f"{where}._target_: {component.target!r} is not a class or function")
    return found


def _validated_options(
    component: Component, where: str, supplied: frozenset[str]
) -> dict[str, Any]:
    called = target(component, where)
    try:
        parameters = inspect.signature(called, eval_str=True).parameters
    except (NameError, ValueError, TypeError) as error:
        raise UserError(
            f"{where}: {component.target} has no readable signature: {error}"
        ) from error
    _check_names(component, where, parameters)
    left_out = {name for name in supplied if component.options.get(name) is None}
    options = {key: value for key, value in component.options.items() if key not in left_out}
    fields: dict[str, Any] = {}
    takes_any = False
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in left_out:
            annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (annotation, default)
    model: type[BaseModel] = create_model(
        component.name,
        __config__=ConfigDict(
            extra="allow" if takes_any else "forbid",
            arbitrary_types_allowed=True,
            protected_namespaces=(),
            allow_inf_nan=False,
        ),
        **fields,
    )
    with explained(where, [*fields, *_own_keys(component)]):
        checked = model(**options)
    found = {key: getattr(checked, key) for key in options}
    try:
        refuse_booleans(options, found)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from error
    return found


def _own_keys(component: Component) -> set[str]:
    """Return the keys of the schema that are no options of the class, as a dataset's `share`."""
    return set(type(component).model_fields.keys() - Component.model_fields.keys())


def _check_names(
    component: Component, where: str, parameters: Mapping[str, inspect.Parameter]
) -> None:
    """Raise UserError for a parameter of a user's class that no option can reach."""
    if component.target.startswith("opt_runner."):
        return
    defaults = {name: field.default for name, field in type(component).model_fields.items()}
    taken = _own_keys(component) - component.passed_on
    for name, parameter in parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY or name.startswith("_"):
            if parameter.default is parameter.empty or name in component.options:
                raise UserError(
                    f"{where}: {component.target} has the parameter {name!r}, which begins with _ "
                    "or takes no keyword, so it cannot be an option: rename it"
                )
        elif name in taken and getattr(component, name) != defaults[name]:
            raise UserError(
                f"{where}: {component.target} has the parameter {name!r}, which is a key of every "
                f"{where}, and would not get its value: give it another name"
            )
