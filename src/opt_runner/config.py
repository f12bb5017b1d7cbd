"""The typed schema of conf/, its validation, and a cell's signature.

This module does not import torch: help and completion must answer at once.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from opt_runner import components
from opt_runner.components import Component
from opt_runner.errors import UserError, explain

# Part of every signature. Raise it when a release changes what a config computes, so that the
# records of the older release are not taken for the newer one's.
RESULTS_VERSION = 2

Share = Annotated[float, Field(gt=0, lt=1)]


class Node(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Budget(Node):
    """How long a cell trains. `steps`, where given, counts; else `epochs`."""

    steps: int | None = Field(gt=0)
    epochs: float | None = Field(gt=0)

    @model_validator(mode="after")
    def _one_is_given(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("budget.steps or budget.epochs must be given")
        return self

    def in_steps(self, steps_per_epoch: int) -> int:
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * steps_per_epoch))


class Optimizer(Node):
    lr: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    nesterov: bool

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov needs optimizer.momentum above 0")
        return self


class Schedule(Node):
    """The learning rate rises over the share `warmup` of the budget and falls by `factor` at each
    milestone, a share as well."""

    warmup: float = Field(ge=0, lt=1)
    milestones: tuple[Share, ...]
    factor: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"schedule.milestones must ascend, got {list(self.milestones)}")
        return self


class Loss(Node):
    label_smoothing: float = Field(ge=0, lt=1)
    softmax_floor: float = Field(ge=0, lt=1)


class Augment(Node):
    enabled: bool
    pad: int = Field(ge=0)
    flip: bool


class Interval(Node):
    every: int | None = Field(gt=0)


class Checkpoint(Node):
    every_seconds: float = Field(ge=0)
    every_steps: int | None = Field(gt=0)


class Hardware(Node):
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["float32", "bfloat16"]
    threads: int | None = Field(gt=0)
    channels_last: bool
    compile: bool
    reuse_memory: bool


class Plan(Node):
    measure: bool


class Tracking(Node):
    name: Literal["wandb", "none"]
    project: str = "opt-runner"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    tags: tuple[str, ...] = ()


class Config(Node):
    """One cell, checked: what conf/ composes to."""

    seed: int = Field(ge=0, lt=2**31)
    experiment_name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    output_dir: str = Field(min_length=1)
    note: str
    rerun: bool
    plan: Plan
    when_locked: Literal["wait", "leave"]
    progress: Literal["auto", "bar", "plain", "none"]
    batch_size: int = Field(gt=0)
    budget: Budget
    optimizer: Optimizer
    schedule: Schedule
    loss: Loss
    augment: Augment
    log: Interval
    evaluate: Interval
    checkpoint: Checkpoint
    method: Component
    model: Component
    dataset: Component
    hardware: Hardware
    tracking: Tracking

    def directory(self, signature: str) -> Path:
        return (
            Path(self.output_dir)
            / self.experiment_name
            / self.dataset.name
            / self.model.name
            / self.method.name
            / f"seed{self.seed}-{signature}"
        )


# What a component is given beside its options in the config.
NETWORK_SUPPLIED = frozenset({"in_channels", "image_size", "num_classes", "bn_momentum"})


def compose(config_name: str, overrides: Sequence[str]) -> Config:
    """What Hydra, initialized, composes from these overrides, checked.

    Raises UserError and Hydra's and OmegaConf's exceptions for a mistake in the overrides.
    """
    try:
        cfg = hydra.compose(config_name, list(overrides))
    except ValueError as error:  # of a group that is given a number, say
        raise UserError(str(error)) from error
    return read(cfg)


def read(cfg: DictConfig) -> Config:
    """The composed config, checked against the schema and the components' signatures.

    Raises UserError, one line a fault.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{error.full_key} must be given: {error.full_key}=VALUE") from error
        raise UserError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    try:
        config = Config.model_validate({str(key): value for key, value in plain.items()})
    except ValidationError as error:
        raise UserError(_explain_nested(error)) from error
    components.check(config.method, "method")
    components.check(config.model, "model", NETWORK_SUPPLIED)
    components.check(config.dataset, "dataset")
    return config


def _explain_nested(error: ValidationError) -> str:
    keys = [key for field in Config.model_fields.values() for key in _keys(field.annotation)]
    return explain(error, "", [*Config.model_fields, *keys])


def _keys(node: Any) -> list[str]:
    return list(node.model_fields) if isinstance(node, type) and issubclass(node, Node) else []


def signature(config: Config, data: str, device: str) -> str:
    """A hash of everything that can change the result, and of nothing else.

    data: the dataset's fingerprint, which stands for its options (paths among them).
    device: the kind of device, once `auto` is resolved.
    """
    content = config.model_dump(
        mode="json",
        by_alias=True,
        include={
            "seed", "batch_size", "budget", "optimizer", "schedule", "loss", "augment",
            "log", "evaluate", "method", "model",
        },
    )  # fmt: skip
    content["dataset"] = data
    content["hardware"] = {
        "device": device,
        **config.hardware.model_dump(include={"precision", "channels_last", "compile"}),
    }
    content["results_version"] = RESULTS_VERSION
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def conf_dir() -> Path:
    """conf/: the copy in the installed package, or the checkout's."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"
