"""Components with keys that all choices of their group share: optimizer, dataset, model."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from opt_runner.config.components import Component
from opt_runner.files import expanded

# A path may begin with ~, as the shell leaves it in KEY=~/FOLDER.
Expanded = BeforeValidator(lambda path: expanded(path) if isinstance(path, str) else path)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


class OptimizerChoice(Component):
    """Any optimizer, and the options that all share.

    rotation_lr: the learning rate of what a method trains beside the network, as R; null: lr.
    clip: the largest norm of all gradients together; null: any. accumulate: the parts of a batch
    whose gradients are added before a step.
    """

    passed_on = frozenset({"lr", "weight_decay"})

    lr: float = Field(gt=0, le=1e38)
    rotation_lr: float | None = Field(default=None, gt=0, le=1e38)
    weight_decay: float = Field(ge=0, le=1e38)
    clip: float | None = Field(default=None, gt=0, le=1e38)
    accumulate: int = Field(default=1, gt=0, le=10**6)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.options.get("nesterov") and not self.options.get("momentum", 1):
            raise ValueError("optimizer.nesterov needs optimizer.momentum above 0")
        return self


class ScheduleChoice(Component):
    """Any schedule of the learning rate. warmup: the share of the budget in which it rises."""

    warmup: float = Field(default=0.0, ge=0, lt=1)


class DatasetChoice(Component):
    """Any dataset, the choice of its training samples, and the form of its images.

    validation: the share of training samples that are held back, drawn with validation_seed.
    share: the share of the others that are trained on, the same in each class.
    label_noise: the share of their labels that are replaced by other classes.
    The run's seed draws the latter two.
    size, channels, mean, std: see `Form`; None: of weights with a name their own.
    """

    passed_on = frozenset({"size", "channels"})

    validation: float = Field(default=0.0, ge=0, le=0.5)
    validation_seed: int = Field(default=0, ge=0, lt=2**31)
    share: float = Field(default=1.0, gt=0, le=1)
    label_noise: float = Field(default=0.0, ge=0, lt=1)
    size: int | None = Field(default=None, gt=0, le=100_000)
    channels: Literal[1, 3] | None = None
    mean: tuple[Fraction, ...] | None = Field(default=None, min_length=1)
    std: tuple[Positive, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _mean_has_std(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be given together, as [0.5] and [0.25]")
        return self

    @property
    def for_class(self) -> dict[str, Any]:
        """Return what the class may do by itself, as `ImageFolder` decodes at a size."""
        return self.model_dump(include={"size", "channels"}, exclude_none=True)

    @property
    def beside_fingerprint(self) -> dict[str, Any]:
        """Return the choices that are not in the data's fingerprint."""
        keys = {"share", "label_noise", "size", "channels", "mean", "std"}
        chosen = self.model_dump(mode="json", include=keys, exclude_defaults=True)
        if self.validation:
            chosen["validation"] = [self.validation, self.validation_seed]
        own = self.target.startswith("opt_runner.")
        if not own and (numbers := without_texts(self.options)):  # a text may be a path
            chosen["dataset_options"] = numbers
        return chosen


def without_texts(value: Any) -> Any:
    """Return a value of a config without its texts, which may be paths; None for a text."""
    if isinstance(value, dict):
        kept = {key: without_texts(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner not in (None, [], {})}
    if isinstance(value, list | tuple):
        return [without_texts(inner) for inner in value]
    return value if isinstance(value, int | float) else None


class ModelChoice(Component):
    """Any network, and the weights that it starts from.

    weights: a file of safetensors or of a state_dict, or the name of weights of torchvision; None:
        the network's own start.
    weights_except: patterns of names of parameters that keep the network's own start.
    """

    weights: Annotated[Path | None, Expanded] = None
    weights_except: tuple[str, ...] = ()

    @property
    def published(self) -> str | None:
        """Return the name of the weights; None if they are a file or there are none."""
        is_name = self.weights is not None and re.fullmatch(r"[A-Z][A-Z0-9_]*", str(self.weights))
        return str(self.weights) if is_name else None

    @model_validator(mode="after")
    def _is_a_known_form(self) -> Self:
        named = self.published and self.target.endswith(".from_torchvision")
        if self.weights and not named and self.weights.suffix not in WEIGHT_SUFFIXES:
            allowed = ", ".join(WEIGHT_SUFFIXES)
            raise ValueError(
                f"model.weights={self.weights} must be a file that ends in {allowed}, or, with "
                "model=torchvision, a name as IMAGENET1K_V1"
            )
        return self
