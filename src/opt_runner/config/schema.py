"""The typed schema of conf/: the keys of a run, and which of them change its result."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import ConfigDict, Field, model_validator

from opt_runner.config.choices import (
    DatasetChoice,
    Expanded,
    ModelChoice,
    OptimizerChoice,
    ScheduleChoice,
)
from opt_runner.config.components import Component, Name, Node


class Role(Enum):
    """The effect of a key on a run's result; signatures, tables and plans depend on it."""

    TABLE = "table"  # changes the result: a table holds runs of one value
    METHOD = "method"  # changes the result: differs between the methods of a table
    SEED = "seed"  # changes the result: tables show the mean over the seeds
    NONE = "none"  # does not change the result


class Budget(Node):
    """The length of a training: `steps` if given, else `epochs`."""

    steps: int | None = Field(gt=0, le=10**9)
    epochs: float | None = Field(gt=0, le=1e6)

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


class Loss(Node):
    """Options of the loss of the data."""

    label_smoothing: float = Field(ge=0, lt=1)
    softmax_floor: float = Field(ge=0, lt=1)


class Augment(Node):
    """The augmentation of training images: see `Augment` and `Mix` of the datasets."""

    enabled: bool
    pad: int = Field(ge=0, le=10_000)
    flip: bool
    resized_crop: float | None = Field(default=None, gt=0, le=1)
    then: Component | None = None
    mixup: float | None = Field(default=None, gt=0, le=100)
    cutmix: float | None = Field(default=None, gt=0, le=100)

    @model_validator(mode="after")
    def _is_enabled(self) -> Self:
        if not self.enabled:
            for name in ("resized_crop", "then", "mixup", "cutmix"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"augment.{name} has no effect with augment.enabled=false, as text, graphs "
                        "and points have it"
                    )
        return self


class Interval(Node):
    """The number of steps between two rows of metrics; None: 1/200 of the budget."""

    every: int | None = Field(gt=0, le=10**9)


class Evaluate(Node):
    """The steps between evaluations. test: the evaluations that measure the test error.

    ema: the decay of a moving average of the weights, which is tested as well; None: no average.
    patience: the evaluations without a lower validation error that end the run; None: none do.
    """

    every: int | None = Field(gt=0, le=10**9)
    test: Literal["every", "last", "never"] = "every"
    ema: float | None = Field(default=None, gt=0, lt=1)
    patience: int | None = Field(default=None, gt=0, le=10**9)


class Checkpoint(Node):
    """The time, and the number of steps, between two checkpoints."""

    every_seconds: float = Field(ge=0, le=1e9)
    every_steps: int | None = Field(gt=0, le=10**9)


class Covered(Node):
    """The layers that a method covers, see `opt_runner.Rule`."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    types: tuple[str, ...] | None = None
    max_d: int | None = Field(default=None, gt=0, le=10**9)


class OtherMethod(Covered):
    """A method for layers that earlier methods do not cover.

    method: its name, or the dotted path of its class.
    """

    method: str = Field(pattern=r"^[A-Za-z_][\w.]*$")
    options: dict[str, Any] = Field(default={})


class Layers(Covered):
    """The layers that each method covers, and the start of W, see `OPT`.

    weights: None is `pretrained` for a network that starts from a file, else `given`.
    """

    rest: tuple[OtherMethod, ...] = ()
    per_group: bool = False
    weights: Literal["given", "gaussian", "pretrained"] | None = None


class Hardware(Node):
    """The hardware of a run; signatures and reports hold the kind of device, never `auto`.

    processes: the starter of a run's processes; auto: torchrun if its variables are set, else none.
    images: kept on the device, or streamed to it a few batches ahead; auto: kept on the device if
    they take at most half of its free memory.
    """

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), Role.NONE]
    precision: Annotated[Literal["float32", "bfloat16", "float64"], Role.TABLE]
    threads: Annotated[int | None, Field(gt=0, le=4096), Role.NONE]
    channels_last: Annotated[bool, Role.TABLE]
    compile: Annotated[bool, Role.TABLE]
    reuse_memory: Annotated[bool, Role.NONE]
    processes: Annotated[Literal["auto", "slurm"], Role.NONE]
    images: Annotated[Literal["auto", "device", "streamed"], Role.NONE] = "auto"


class Plan(Node):
    """Options of a sweep's plan. measure: time some steps and compute their memory."""

    measure: bool


class Tracking(Node):
    """The trackers by their names, and options of Weights & Biases."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Component]

    project: str | None = None
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    tags: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, content: Any) -> Any:
        """Give each tracker its key as its name."""
        if not isinstance(content, dict):
            return content
        return {k: {"name": k, **v} if isinstance(v, dict) else v for k, v in content.items()}

    @property
    def trackers(self) -> dict[str, Component]:
        return self.__pydantic_extra__


class Config(Node):
    """The checked config of one run."""

    seed: Annotated[int, Field(ge=0, lt=2**31), Role.SEED]
    experiment_name: Annotated[Name, Field(max_length=200), Role.NONE]  # sweeps add to it
    output_dir: Annotated[str, Expanded, Field(min_length=1), Role.NONE]
    note: Annotated[str, Role.NONE]
    rerun: Annotated[bool, Role.NONE]
    plan: Annotated[Plan, Role.NONE]
    when_locked: Annotated[Literal["wait", "leave"], Role.NONE]
    progress: Annotated[Literal["auto", "bar", "plain", "none"], Role.NONE]
    batch_size: Annotated[int | None, Field(gt=0, le=10**7), Role.TABLE]
    budget: Annotated[Budget, Role.TABLE]
    optimizer: Annotated[OptimizerChoice, Role.METHOD]
    schedule: Annotated[ScheduleChoice, Role.METHOD]
    loss: Annotated[Loss, Role.TABLE]
    augment: Annotated[Augment, Role.TABLE]
    log: Annotated[Interval, Role.TABLE]
    evaluate: Annotated[Evaluate, Role.TABLE]
    checkpoint: Annotated[Checkpoint, Role.NONE]
    method: Annotated[Component, Role.METHOD]
    layers: Annotated[Layers, Role.METHOD] = Layers()
    model: Annotated[ModelChoice, Role.TABLE]
    dataset: Annotated[DatasetChoice, Role.TABLE]
    hardware: Annotated[Hardware, Role.TABLE]
    tracking: Annotated[Tracking, Role.NONE] = Tracking()

    @model_validator(mode="after")
    def _patience_has_validation(self) -> Self:
        if self.evaluate.patience and not self.dataset.validation:
            raise ValueError(
                f"evaluate.patience={self.evaluate.patience} needs samples held back, as "
                "dataset.validation=0.1: the test samples must not decide when a run ends"
            )
        return self

    @property
    def title(self) -> str:
        """Return method, model, dataset and seed, for messages."""
        return f"{self.method.name} {self.model.name} {self.dataset.name} seed {self.seed}"

    @property
    def content(self) -> dict[str, Any]:
        """Return plain values, as config.yaml and trackers hold them."""
        return self.model_dump(mode="json", by_alias=True)

    def directory(self, signature: str) -> Path:
        names = (self.dataset.name, self.model.name, self.method.name)
        return Path(self.output_dir, self.experiment_name, *names, f"seed{self.seed}-{signature}")


def of_roles(content: dict[str, Any], *roles: Role, schema: type[Node] = Config) -> dict[str, Any]:
    """Return the keys of `content`, a config as plain values, that have one of these roles.

    A key that the schema does not have counts as TABLE.
    """
    chosen: dict[str, Any] = {}
    for key, value in content.items():
        field = schema.model_fields.get(key)
        role = next((m for m in field.metadata if isinstance(m, Role)), None) if field else None
        node = field.annotation if field else None
        if has_roles(node) and isinstance(value, dict):
            if inner := of_roles(value, *roles, schema=node):
                chosen[key] = inner
        elif (role or Role.TABLE) in roles:
            chosen[key] = value
    return chosen


def has_roles(node: Any) -> TypeGuard[type[Node]]:
    """Return True if the keys inside a node have roles of their own."""
    return (
        isinstance(node, type)
        and issubclass(node, Node)
        and any(isinstance(m, Role) for f in node.model_fields.values() for m in f.metadata)
    )


def dotted(node: Any, path: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys, and lists as tuples."""
    if not isinstance(node, dict) or (path and not node):
        return {path: tuple(node) if isinstance(node, list) else node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= dotted(value, f"{path}.{key}" if path else key)
    return found


def as_typed(value: Any) -> str:
    """Return a value of a config as on the command line."""
    if isinstance(value, tuple):
        return "[" + ",".join(map(as_typed, value)) + "]"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return "null" if value is None else str(value)
