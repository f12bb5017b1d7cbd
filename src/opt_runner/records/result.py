"""result.json: how a run ended, and how far it is while it trains."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from opt_runner.datasets.data import Measure
from opt_runner.files import write_whole
from opt_runner.geometry import Geometry
from opt_runner.records.reading import read_json

Status = Literal["finished", "failed", "diverged", "interrupted", "pruned"]


@dataclass
class Result:
    """The result of a run so far. The training loop fills it, and checkpoints keep it.

    An error is a number that falls as the network improves; `error_name` and `error_unit` say which
    one. A value that is not known yet is None. An unfinished run has the status
    `interrupted`.
    """

    signature: str
    method: str
    model: str
    dataset: str
    seed: int
    status: Status = "interrupted"
    data: str | None = None  # the dataset's fingerprint
    error: str | None = None
    error_name: str = "error"  # see datasets.Measure
    error_unit: str = "%"
    steps: int = 0
    stopped: str | None = None  # the reason why the run ended before its budget
    seconds: float = 0.0  # of training, evaluation left out
    test_error: float | None = None  # after the last step
    best_test_error: float | None = None  # of all evaluations; None with validation
    # With validation only; the test errors only if the run has finished.
    validation_error: float | None = None  # of the last evaluation
    best_validation_error: float | None = None  # of all evaluations
    best_step: int | None = None  # the step of the best validation error
    test_error_at_best: float | None = None  # after that step
    train_loss: float | None = None
    # After the last step, on as many training samples as there are test samples, without
    # augmentation, with the labels of the training.
    train_error: float | None = None
    tested: dict[str, float] = field(default_factory=dict)  # other numbers of the test samples
    start: Geometry | None = None  # before training
    end: Geometry | None = None  # at the last evaluation
    orthogonality_error: float | None = None
    measured: dict[str, float | None] = field(default_factory=dict)  # see Method.measure
    label: str | None = None  # the method's, for pictures
    colour: str | None = None
    trainable_parameters: int | None = None
    effective_parameters: int | None = None
    metrics_size: int | None = None  # of metrics.jsonl, in bytes
    weights: str | None = None  # SHA-256 of weights.safetensors
    samples_per_second: float | None = None
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    @property
    def measure(self) -> Measure:
        return Measure(self.error_name, self.error_unit)

    @property
    def settled(self) -> bool:
        """Return True if nothing is left to do: the same run again would give the same."""
        return self.status in ("finished", "diverged")

    @property
    def ended_well(self) -> bool:
        """Return True for a finished run, and for one that a search stopped early.

        Outside of the search a stopped run resumes from its checkpoint.
        """
        return self.status in ("finished", "pruned")

    @staticmethod
    def parse(content: Any) -> "Result":
        """Return the result from plain values. Raises ValidationError if a type is wrong."""
        return _ADAPTER.validate_python(content)

    @staticmethod
    def read(path: Path) -> "Result | None":
        """Return the result at `path`, or None if there is none.

        Raises:
            DamagedFile: the file was altered.
            UserError: it cannot be read.
        """
        try:
            return read_json(path, _ADAPTER)
        except FileNotFoundError:
            return None

    def write(self, path: Path) -> None:
        """Write result.json. Raises CannotWrite."""
        write_whole(path, json.dumps(finite(asdict(self)), indent=2) + "\n")


_ADAPTER = TypeAdapter(Result)


def finite(value: Any) -> Any:
    """Return `value` with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
