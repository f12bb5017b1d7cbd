"""Every number of the config has a least and a largest value: none hangs, none fills the disk."""

import inspect
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from opt_runner import datasets, networks, optimizers
from opt_runner.config.components import Node
from opt_runner.config.schema import (
    Config,
    DatasetChoice,
    Layers,
    ModelChoice,
    OptimizerChoice,
    OtherMethod,
    ScheduleChoice,
)
from opt_runner.errors import UserError
from opt_runner.methods import METHODS
from opt_runner.run import schedule
from tests.config.test_config import composed


def numbers(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the constraints around each number type inside an annotation."""
    if hasattr(annotation, "__metadata__"):
        inner = list(annotation.__metadata__)
        inner += [c for m in inner if isinstance(m, FieldInfo) for c in m.metadata]
        yield from numbers(annotation.__origin__, (*metadata, *inner))
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from numbers(part, metadata)
    elif get_origin(annotation) in (tuple, list):
        for part in get_args(annotation):
            yield from numbers(part)
    elif annotation in (int, float):
        yield metadata


def is_bounded(metadata: tuple[Any, ...]) -> bool:
    low = any(isinstance(m, Gt | Ge) for m in metadata)
    return low and any(isinstance(m, Lt | Le) for m in metadata)


def fields(node: type[Any], seen: set[type]) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yield name, annotation and constraints of the fields of a node and of the nodes in it."""
    if node in seen:
        return
    seen.add(node)
    for name, field in node.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Node):
            yield from fields(field.annotation, seen)
        else:
            yield f"{node.__name__}.{name}", field.annotation, tuple(field.metadata)


def test_numbers_of_the_schema() -> None:
    seen: set[type] = set()
    nodes = (
        Config, DatasetChoice, ModelChoice, OptimizerChoice, ScheduleChoice, Layers, OtherMethod
    )  # fmt: skip
    every = [field for node in nodes for field in fields(node, seen)]
    open_ = [
        name
        for name, annotation, metadata in every
        if not all(map(is_bounded, numbers(annotation, metadata)))
    ]
    assert not open_


COMPONENTS = {
    **METHODS,
    **{name: getattr(networks, name) for name in networks.__all__},
    "image_folder": datasets.ImageFolder,
    "text": datasets.TextFile,
    "graph": datasets.GraphFile,
    "points": datasets.PointFolder,
    **{name: getattr(optimizers, name) for name in ("SGD", "AdamW", "Muon", "Lion", "SOAP")},
    **{
        name: getattr(schedule, name)
        for name in ("Milestones", "Constant", "Linear", "Cosine", "WarmupStableDecay")
    },
}
SUPPLIED = {
    "in_channels", "image_size", "num_classes", "vocabulary", "context", "graph", "point_dims",
    "params", "lr", "weight_decay",
}  # fmt: skip


@pytest.mark.parametrize("name", COMPONENTS)
def test_numbers_of_components(name: str) -> None:
    parameters = inspect.signature(COMPONENTS[name], eval_str=True).parameters
    open_ = [
        key
        for key, parameter in parameters.items()
        if key not in SUPPLIED and not all(map(is_bounded, numbers(parameter.annotation)))
    ]
    assert not open_


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=true", "optimizer: lr must be a number, got true"),
        ("method=ogd method.plain_weight_decay_scale=true", "scale must be a number, got true"),
        ("optimizer.lr=inf", "optimizer.lr: must be a finite number"),
        ("budget.epochs=1e30", "budget.epochs: must be less than or equal to 1000000"),
        ("model.convs=999999999999", "model.convs: must be less than or equal to 1000"),
        ("experiment_name=a.old-1", "'a.old-1' must not contain '.old-'"),
    ],
)
def test_a_number_that_is_none_or_too_large_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        composed(*override.split())
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
