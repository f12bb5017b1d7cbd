"""A run with validation: what it trains on, evaluates, records and shows, and when it tests."""

import math
from dataclasses import asdict
from typing import Any

import pytest
import torch

from opt_runner import merge
from opt_runner.datasets import Images, Samples
from opt_runner.errors import UserError
from opt_runner.records.result import Result
from opt_runner.run import evaluate
from opt_runner.run.evaluate import Diverged, numbers
from opt_runner.run.interrupt import StopRequest
from opt_runner.run.loop import train
from opt_runner.run.reporter import Reporter
from opt_runner.run.set_up import Setup, set_up
from tests.config.test_config import composed
from tests.small import new_result

TINY = ["model=mlp", "model.widths=[8]", "budget.steps=12", "evaluate.every=2", "method=gs",
        "hardware.threads=1", "batch_size=32"]  # fmt: skip


class Own:
    """A dataset that knows nothing of validation."""

    def check(self) -> None:
        pass

    def fingerprint(self) -> str:
        return "own"

    def load(self) -> Images:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(200) % 3
        # Of class k, k of four rows are bright.
        pictures = torch.randint(100, (200, 1, 4, 4), generator=generator)
        for label in range(3):
            pictures[labels == label, :, :label] += 60
        every = Samples(pictures.byte(), labels)
        return Images(every[:150], every[150:], list("abc"))


class Recorder(Reporter):
    """Keeps the rows, and the test error at each of them, which the loop must not tell."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.rows: list[dict[str, Any]] = []
        self.test_errors: dict[int, float] = {}

    def report(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        data = self.setup.data
        self.test_errors[row["step"]] = numbers(
            merge(self.setup.opt).eval(), data, data.test, self.setup.device
        )["error"]


def prepared(*overrides: str) -> Setup:
    config = composed(*TINY, f"dataset._target_={__name__}.Own", *overrides)
    return set_up(config, Own().load())


def trained(setup: Setup) -> tuple[Result, Recorder]:
    result, recorder = new_result(), Recorder(setup)
    train(setup, result, recorder, StopRequest())
    return result, recorder


def test_rows_hold_the_validation_error_and_only_the_last_the_test_error() -> None:
    result, recorder = trained(prepared("dataset.validation=0.2"))
    evaluated = [row for row in recorder.rows if "validation_error" in row]
    assert [row["step"] for row in evaluated] == list(range(0, 13, 2))
    assert [row["step"] for row in recorder.rows if "test_error" in row] == [12]
    assert result.validation_error == evaluated[-1]["validation_error"]
    assert result.test_error == evaluated[-1]["test_error"] == recorder.test_errors[12]
    assert result.best_test_error is None


@pytest.mark.parametrize("seed", range(3))
def test_the_best_step_is_the_first_of_the_lowest_validation_error(seed: int) -> None:
    result, recorder = trained(prepared("dataset.validation=0.2", f"seed={seed}"))
    errors = {r["step"]: r["validation_error"] for r in recorder.rows if "validation_error" in r}
    best = min(errors, key=lambda step: errors[step])
    assert result.best_step == best
    assert result.best_validation_error == errors[best]
    assert result.test_error_at_best == recorder.test_errors[best]


def test_the_test_images_are_looked_at_when_there_is_a_new_best_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = prepared("dataset.validation=0.2")
    assert setup.validation is not None
    validation, tested = iter([60.0, 50.0, 55.0, 50.0, 40.0, 45.0, 41.0]), []

    def told(network: Any, data: Any, samples: Any, *rest: Any) -> dict[str, float]:
        if samples is setup.data.test:
            tested.append(result.steps)
            return {"error": 70.0 + result.steps}
        return {"error": next(validation) if samples is setup.validation else 0.0}

    monkeypatch.setattr(evaluate, "numbers", told)
    result = new_result()
    train(setup, result, Reporter(), StopRequest())
    assert tested == [0, 2, 8, 12]
    assert (result.best_step, result.test_error_at_best, result.test_error) == (8, 78.0, 82.0)


@pytest.mark.parametrize("validation", [0, 0.2])
@pytest.mark.parametrize(("when", "looks"), [("last", [12]), ("never", [])])
def test_how_often_the_test_images_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, validation: float, when: str, looks: list[int]
) -> None:
    setup, looked = prepared(f"dataset.validation={validation}", f"evaluate.test={when}"), []

    def told(network: Any, data: Any, samples: Any, *rest: Any) -> dict[str, float]:
        if samples is setup.data.test:
            looked.append(result.steps)
        return {"error": 50.0 - result.steps, "nll": 0.5}

    monkeypatch.setattr(evaluate, "numbers", told)
    result = new_result()
    train(setup, result, Reporter(), StopRequest())
    assert looked == looks
    assert result.test_error == (38.0 if looks else None)
    assert result.tested == ({"nll": 0.5} if looks else {})
    assert result.train_error == 38.0


def test_numbers_by_hand() -> None:
    setup = prepared()
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    labels = torch.tensor([0, 1, 1, 1])

    images = torch.zeros(4, 1, 1, 1, dtype=torch.uint8)

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.fc = torch.nn.Linear(1, 1), torch.nn.Linear(1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return p.log()

    found = numbers(Told().eval(), setup.data, Samples(images, labels), setup.device)
    assert found["error"] == 50
    assert found["nll"] == pytest.approx(-math.log(0.9 * 0.1 * 0.4 * 0.7) / 4)
    # Bins: 0.9 twice, one right; 0.6, wrong; 0.7, right.
    assert found["calibration_error"] == pytest.approx(100 * (2 * 0.4 + 0.6 + 0.3) / 4)


def test_a_network_that_says_nan_has_diverged() -> None:
    """argmax of NaN is class 0: an error of 90% that nothing has earned."""
    setup = prepared()
    labels = torch.tensor([0, 1, 1, 1])

    class Lost(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.fc = torch.nn.Linear(1, 1), torch.nn.Linear(1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 2), math.nan)

    images = torch.zeros(4, 1, 1, 1, dtype=torch.uint8)
    with pytest.raises(Diverged, match="outputs are not finite"):
        numbers(Lost().eval(), setup.data, Samples(images, labels), setup.device)


def test_no_checkpoint_of_a_diverged_run_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed, it would not know that its loss was NaN."""
    monkeypatch.setattr(Recorder, "save", lambda *_: pytest.fail("saved"))
    every = ["log.every=12", "evaluate.every=12", "checkpoint.every_steps=4"]
    setup = prepared("method=standard", "optimizer.lr=1e30", "schedule.warmup=0", *every)
    with pytest.raises(Diverged, match="loss is not finite at step"):
        trained(setup)


@pytest.mark.parametrize(("side", "expected"), [(8, [1000, 100]), (224, [81] * 13 + [47])])
def test_large_images_are_tested_a_few_at_a_time(side: int, expected: list[int]) -> None:
    """ResNet-18's activations of 1,000 images of 224 x 224 would take 10 GB."""
    setup = prepared()
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1100, 1, side, side)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.AdaptiveAvgPool1d(2))
    samples = Samples(images, torch.zeros(1100, dtype=torch.int64))
    data = Images(samples, samples, ["a", "b"])
    found: list[int] = []
    numbers(network, data, samples, setup.device, see=lambda logits, _: found.append(len(logits)))
    assert found == expected


def test_no_step_trains_on_what_is_held_back() -> None:
    setup = prepared("dataset.validation=0.2")
    assert setup.validation is not None
    assert len(setup.batches.inputs) + len(setup.validation) == 150
    assert setup.batches.inputs is setup.data.train.inputs
    assert setup.batches.steps_per_epoch == 120 // 32


def test_methods_and_seeds_share_the_split() -> None:
    splits = [
        prepared("dataset.validation=0.2", *more).validation
        for more in ([], ["seed=5"], ["method=cayley"], ["batch_size=7"])
    ]
    for split in splits[1:]:
        assert split is not None
        assert splits[0] is not None
        assert torch.equal(split.inputs, splits[0].inputs)


def test_without_validation_every_evaluation_is_a_test_as_ever() -> None:
    setup = prepared()
    assert setup.validation is None
    result, recorder = trained(setup)
    errors = [row["test_error"] for row in recorder.rows if "test_error" in row]
    assert len(errors) == 7
    assert result.best_test_error == min(errors)
    assert result.validation_error is None
    assert result.test_error_at_best is None
    assert all("validation_error" not in row for row in recorder.rows)


PATIENT = ["dataset.validation=0.2", "evaluate.patience=2"]


def with_errors(
    monkeypatch: pytest.MonkeyPatch, setup: Setup, validation: dict[int, float], result: Result
) -> None:
    """Let the validation error after each step be as given."""

    def given(network: Any, data: Any, samples: Any, *rest: Any) -> dict[str, float]:
        return {"error": validation[result.steps] if samples is setup.validation else 7.0}

    monkeypatch.setattr(evaluate, "numbers", given)


def test_it_ends_after_so_many_evaluations_without_a_lower_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup, result = prepared(*PATIENT, "log.every=5"), new_result()
    recorder: list[dict[str, Any]] = []
    reporter = Reporter()
    monkeypatch.setattr(reporter, "report", recorder.append)
    with_errors(monkeypatch, setup, {0: 60, 2: 50, 4: 50, 6: 40, 8: 41, 10: 40, 12: 0}, result)
    train(setup, result, reporter, StopRequest())
    assert result.steps == 10
    assert result.stopped == "2 evaluations without a lower validation error than after step 6"
    assert (result.best_step, result.test_error, result.train_error) == (6, 7.0, 7.0)
    last = recorder[-1]
    assert (last["step"], last["test_error"], last["train_loss"]) == (10, 7.0, result.train_loss)
    uncut = prepared("dataset.validation=0.2", "log.every=5")
    _, whole = trained(uncut)
    assert [r["lr"] for r in recorder if r["step"] == 5] == [
        r["lr"] for r in whole.rows if r["step"] == 5
    ], "the schedule is that of the whole budget"


def test_after_a_checkpoint_of_its_last_step_it_trains_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup, result = prepared(*PATIENT), new_result()
    with_errors(monkeypatch, setup, dict.fromkeys(range(0, 13, 2), 50.0), result)
    train(setup, result, Reporter(), StopRequest())
    assert result.steps == 4
    again = Result.parse(asdict(result))
    train(setup, again, Reporter(), StopRequest())
    assert again == result


def test_at_the_end_of_the_budget_nothing_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    setup, result = prepared(*PATIENT), new_result()
    errors = {0: 60, 2: 50, 4: 50, 6: 40, 8: 30, 10: 30, 12: 30}
    with_errors(monkeypatch, setup, errors, result)
    train(setup, result, Reporter(), StopRequest())
    assert (result.steps, result.stopped) == (12, None)


def test_patience_needs_samples_held_back() -> None:
    with pytest.raises(UserError, match=r"^evaluate.patience=2 needs samples held back, as "
                                        r"dataset.validation=0.1: [^\n]*$"):  # fmt: skip
        composed("evaluate.patience=2")


@pytest.mark.parametrize("option", ["mixup=0.2", "cutmix=1", "resized_crop=0.5"])
@pytest.mark.parametrize("off", ["augment.enabled=false", "dataset=text"])
def test_augmentation_needs_to_be_enabled(option: str, off: str) -> None:
    with pytest.raises(UserError, match=rf"augment.{option.split('=')[0]} has no effect with"):
        composed(off, f"augment.{option}")
