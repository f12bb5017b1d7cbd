"""result.json: how a run ended."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from opt_runner.errors import UserError
from opt_runner.files import write_whole

# Of the histograms of angles between neurons, over 0 to 180 degrees.
ANGLE_BINS = 36


class DamagedResult(UserError):
    """A result.json that is not as it was written."""


Status = Literal["finished", "failed", "diverged", "interrupted", "pruned"]


@dataclass
class Result:
    """result.json. Errors are in percent; what a run did not reach is None."""

    status: Status
    signature: str
    method: str
    model: str
    dataset: str
    seed: int
    data: str | None = None  # the dataset's fingerprint
    error: str | None = None
    steps: int = 0
    test_error: float | None = None  # after the last step
    best_test_error: float | None = None  # of all evaluations; None with validation
    # With validation only; the test errors only of a finished run.
    validation_error: float | None = None  # of the last evaluation
    best_validation_error: float | None = None  # of all evaluations
    best_step: int | None = None  # that of the best validation error
    test_error_at_best: float | None = None  # after that step
    train_loss: float | None = None
    # After the last step, see run/evaluate.py. The first: of as many training images as there
    # are test images, not augmented, with the labels that they were trained on.
    train_error: float | None = None
    test_nll: float | None = None
    calibration_error: float | None = None
    # By layer, see geometry.py. `energy` is E_1; `energy_excess` is by s as well, "0", "1", "2".
    energy_start: dict[str, float] | None = None
    energy_end: dict[str, float] | None = None
    energy_excess_start: dict[str, dict[str, float]] | None = None
    energy_excess_end: dict[str, dict[str, float]] | None = None
    half_space_excess_start: dict[str, float] | None = None
    half_space_excess_end: dict[str, float] | None = None
    largest_cosine_start: dict[str, float] | None = None
    largest_cosine_end: dict[str, float] | None = None
    angles_start: list[int] | None = None  # pairs of neurons by bin, see ANGLE_BINS
    angles_end: list[int] | None = None
    orthogonality_error: float | None = None
    measured: dict[str, float] = field(default_factory=dict)  # see Method.measure
    label: str | None = None  # the method's, for pictures
    colour: str | None = None
    trainable_parameters: int | None = None
    effective_parameters: int | None = None
    metrics_size: int | None = None  # of metrics.jsonl, in bytes
    seconds: float = 0.0
    images_per_second: float | None = None
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """The same run again would give the same: nothing is left to do."""
        return self.status in ("finished", "diverged")

    @property
    def ended_well(self) -> bool:
        """Whether it finished, or was stopped because a search expects no good result of it. The
        latter goes on from its checkpoint if it is run outside of the search."""
        return self.status in ("finished", "pruned")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The result at `path`, or None where none is there yet.

        Raises UserError, naming the file, for one that cannot be read, DamagedResult for one that
        is damaged.
        """
        try:
            content = json.loads(path.read_text())
            known = {f.name for f in fields(cls)}
            return cls(**{key: value for key, value in content.items() if key in known})
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise DamagedResult(f"{path} is damaged: {error}") from error

    def write(self, path: Path) -> None:
        """Raises CannotWrite."""
        write_whole(path, json.dumps(finite(asdict(self)), indent=2) + "\n")


def finite(value: Any) -> Any:
    """`value` with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
