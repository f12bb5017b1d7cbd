"""The typed schema of conf/: what a run is, and what of it changes the run's result.

This module does not import torch: help and completion must answer at once.
"""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    model_validator,
)

from opt_runner.config.components import Component, Name, refuse_booleans

Share = Annotated[float, Field(gt=0, lt=1)]

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


class Role(Enum):
    """What a key of the config is to the result of a run.

    The signature of a run, the tables of a report and the plan of a sweep read it from here.
    """

    TASK = "task"  # changes the result: one value holds for a whole table
    METHOD = "method"  # changes the result: each method of a table has its own
    SEED = "seed"  # changes the result: tables take the mean over it
    NONE = "none"  # does not change the result


class Node(BaseModel):
    """A node of the config: keys that the schema does not have are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _numbers(cls, content: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse true for 1, which pydantic allows."""
        node = handler(content)
        refuse_booleans(content, vars(node))
        return node


class Budget(Node):
    """How long a run trains. `steps`, where given, counts; else `epochs`."""

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


class Optimizer(Node):
    """rotation_lr: the learning rate of what a method trains beside the network, as R; null: lr."""

    lr: float = Field(gt=0, le=1e38)
    rotation_lr: float | None = Field(default=None, gt=0, le=1e38)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, le=1e38)
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
    """resized_crop: the least share of an image's area, in place of the padded crop; null: that.
    then: an augmentation of the user's own, after the crop and the flip.
    """

    enabled: bool
    pad: int = Field(ge=0, le=10_000)
    flip: bool
    resized_crop: float | None = Field(default=None, gt=0, le=1)
    then: Component | None = None


class Interval(Node):
    every: int | None = Field(gt=0, le=10**9)


class Evaluate(Node):
    """test: when to look at the test images: at every evaluation, at the last one, or never."""

    every: int | None = Field(gt=0, le=10**9)
    test: Literal["every", "last", "never"] = "every"


class Checkpoint(Node):
    every_seconds: float = Field(ge=0, le=1e9)
    every_steps: int | None = Field(gt=0, le=10**9)


class DatasetChoice(Component):
    """Any dataset, and what of its training images is trained on.

    validation: a share that is held back; 0: none. validation_seed: draws the images, whatever the
    seed of a run.
    share: of the images that are left, of each class alike. label_noise: the share of their labels
    that are replaced by other classes. Both are drawn by the seed of the run.
    """

    validation: float = Field(default=0.0, ge=0, le=0.5)
    validation_seed: int = Field(default=0, ge=0, lt=2**31)
    share: float = Field(default=1.0, gt=0, le=1)
    label_noise: float = Field(default=0.0, ge=0, lt=1)

    @property
    def trained_on(self) -> dict[str, Any]:
        """Return the choice of training images, of which the data's fingerprint knows nothing."""
        chosen: dict[str, Any] = {}
        if self.validation:
            chosen["validation"] = [self.validation, self.validation_seed]
        if self.share < 1:
            chosen["share"] = self.share
        if self.label_noise:
            chosen["label_noise"] = self.label_noise
        return chosen


class ModelChoice(Component):
    """Any network, and a file of weights that it starts from.

    weights: of safetensors or of a state_dict, as the suffix says; None: the network's own start.
    weights_except: patterns of names that keep the network's own start.
    """

    weights: Path | None = None
    weights_except: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_a_known_form(self) -> Self:
        if self.weights and self.weights.suffix not in WEIGHT_SUFFIXES:
            allowed = ", ".join(WEIGHT_SUFFIXES)
            raise ValueError(f"model.weights={self.weights} must be a file that ends in {allowed}")
        return self


class Covered(Node):
    """Which layers a method covers: see `opt_runner.Rule`."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    types: tuple[str, ...] | None = None
    max_d: int | None = Field(default=None, gt=0, le=10**9)


class OtherMethod(Covered):
    """A method for layers that the methods before it have left.

    method: a name, or a class as `_target_` has it. options: of the method.
    """

    method: str = Field(pattern=r"^[A-Za-z_][\w.]*$")
    options: dict[str, Any] = {}


class Layers(Covered):
    """What `method` covers, what other methods cover of the rest, and how W starts; see `OPT`.

    weights: None: `pretrained` for a network whose weights are of a file, else `given`.
    """

    rest: tuple[OtherMethod, ...] = ()
    per_group: bool = False
    weights: Literal["given", "gaussian", "pretrained"] | None = None


class Hardware(Node):
    """`device` may be `auto`: a signature and a report take the kind of device that it came to.

    processes: who started the processes that train a run together; auto: torchrun, where its
    variables are set, else there is one.
    images: where they lie in training: on the device, or where they are, streamed to it a few
    batches ahead; auto: on the device where they take half of its free memory at most.
    """

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), Role.NONE]
    precision: Annotated[Literal["float32", "bfloat16", "float64"], Role.TASK]
    threads: Annotated[int | None, Field(gt=0, le=4096), Role.NONE]
    channels_last: Annotated[bool, Role.TASK]
    compile: Annotated[bool, Role.TASK]
    reuse_memory: Annotated[bool, Role.NONE]
    processes: Annotated[Literal["auto", "slurm"], Role.NONE]
    images: Annotated[Literal["auto", "device", "streamed"], Role.NONE] = "auto"


class Plan(Node):
    measure: bool


class Tracking(Node):
    name: Literal["wandb", "none"]
    project: str = "opt-runner"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    tags: tuple[str, ...] = ()


class Config(Node):
    """One run, checked: what conf/ composes to."""

    seed: Annotated[int, Field(ge=0, lt=2**31), Role.SEED]
    experiment_name: Annotated[Name, Role.NONE]
    output_dir: Annotated[str, Field(min_length=1), Role.NONE]
    note: Annotated[str, Role.NONE]
    rerun: Annotated[bool, Role.NONE]
    plan: Annotated[Plan, Role.NONE]
    when_locked: Annotated[Literal["wait", "leave"], Role.NONE]
    progress: Annotated[Literal["auto", "bar", "plain", "none"], Role.NONE]
    batch_size: Annotated[int, Field(gt=0, le=10**7), Role.TASK]
    budget: Annotated[Budget, Role.TASK]
    optimizer: Annotated[Optimizer, Role.METHOD]
    schedule: Annotated[Schedule, Role.METHOD]
    loss: Annotated[Loss, Role.TASK]
    augment: Annotated[Augment, Role.TASK]
    log: Annotated[Interval, Role.TASK]
    evaluate: Annotated[Evaluate, Role.TASK]
    checkpoint: Annotated[Checkpoint, Role.NONE]
    method: Annotated[Component, Role.METHOD]
    layers: Annotated[Layers, Role.METHOD] = Layers()
    model: Annotated[ModelChoice, Role.TASK]
    dataset: Annotated[DatasetChoice, Role.TASK]
    hardware: Annotated[Hardware, Role.TASK]
    tracking: Annotated[Tracking, Role.NONE]

    @property
    def title(self) -> str:
        """Return method, model, dataset and seed, for messages."""
        return f"{self.method.name} {self.model.name} {self.dataset.name} seed {self.seed}"

    @property
    def content(self) -> dict[str, Any]:
        """Return plain values, as config.yaml and W&B hold them."""
        return self.model_dump(mode="json", by_alias=True)

    def directory(self, signature: str) -> Path:
        """Return the record's directory."""
        return (
            Path(self.output_dir)
            / self.experiment_name
            / self.dataset.name
            / self.model.name
            / self.method.name
            / f"seed{self.seed}-{signature}"
        )


def of_roles(content: dict[str, Any], *roles: Role, schema: type[Node] = Config) -> dict[str, Any]:
    """Return the keys of `content`, a config as plain values, that have one of these roles.

    A key that the schema does not have counts as TASK.
    """
    chosen: dict[str, Any] = {}
    for key, value in content.items():
        field = schema.model_fields.get(key)
        role = next((m for m in field.metadata if isinstance(m, Role)), None) if field else None
        node = field.annotation if field else None
        if has_roles(node) and isinstance(value, dict):
            value = of_roles(value, *roles, schema=node)
            if value:
                chosen[key] = value
        elif (role or Role.TASK) in roles:
            chosen[key] = value
    return chosen


def has_roles(node: Any) -> TypeGuard[type[Node]]:
    """Return True if the keys inside a node have roles of their own."""
    return (
        isinstance(node, type)
        and issubclass(node, Node)
        and any(isinstance(m, Role) for f in node.model_fields.values() for m in f.metadata)
    )
