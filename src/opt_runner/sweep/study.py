"""The Optuna study of a search: a journal on disk that survives a kill at any moment."""

import os
from pathlib import Path
from typing import Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from opt_runner.datasets.batches import mix
from opt_runner.errors import UserError
from opt_runner.files import CannotWrite, remove_link
from opt_runner.sweep.space import Choices, Range, Space

Pruning = Literal["none", "median", "hyperband"]

# The pruner counts progress in percent of the budget, so that runs with different batch sizes are
# compared at the same place of their schedules.
WHOLE = 100
_NOT_BEFORE = 20
_HALF_DRAWN = "half drawn"


def open_study(folder: Path, name: str, pruning: Pruning) -> optuna.Study:
    """Return the study of this name, a new one if there is none. Hold the lock of `folder`.

    Raises UserError for a damaged journal.
    """
    journal = folder / "journal.log"
    remove_link(journal)
    _repair(journal)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(
            study_name=name,
            storage=JournalStorage(JournalFileBackend(str(journal))),
            pruner=_pruner(pruning),
            direction="minimize",
            load_if_exists=True,
        )
    except OSError as error:
        raise UserError(str(CannotWrite(journal, error))) from error
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{journal} is damaged ({error}): move it away and run the command again; finished "
            "runs are not trained again"
        ) from error


def ask(study: optuna.Study, space: Space, seed: int) -> optuna.Trial:
    """Return a new trial, which depends on the seed and the trials before it alone.

    So a killed search draws the same trials as an uninterrupted one, and the order of the ranges
    on the command line does not matter.
    """
    drawn = sum(map(is_drawn, study.get_trials(deepcopy=False)))
    study.sampler = TPESampler(seed=mix(seed, drawn))
    return study.ask({key: _distribution(one) for key, one in sorted(space.parameters.items())})


def is_drawn(trial: FrozenTrial) -> bool:
    """Return False for a trial whose process ended while it drew the parameters."""
    return trial.user_attrs.get("status") != _HALF_DRAWN


def unfinished(study: optuna.Study, space: Space) -> list[optuna.Trial]:
    """Return the trials that were running when an earlier process ended."""
    found = []
    for frozen in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if frozen.params.keys() == space.parameters.keys():
            found.append(optuna.Trial(study, frozen._trial_id))
        else:
            optuna.Trial(study, frozen._trial_id).set_user_attr("status", _HALF_DRAWN)
            study.tell(frozen.number, state=TrialState.FAIL)
    return found


def _distribution(parameter: Choices | Range) -> BaseDistribution:
    if isinstance(parameter, Choices):
        return CategoricalDistribution(parameter.values)
    low, high, log, step = parameter.low, parameter.high, parameter.log, parameter.step
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log, int(step or 1))
    return FloatDistribution(low, high, log, step)


def _pruner(pruning: Pruning) -> BasePruner:
    if pruning == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=_NOT_BEFORE)
    if pruning == "hyperband":
        return HyperbandPruner(min_resource=_NOT_BEFORE, max_resource=WHOLE)
    return NopPruner()


def _repair(journal: Path) -> None:
    """Remove the remains of a killed process: half a line, and Optuna's own lock."""
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink()
    if journal.exists():
        os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
