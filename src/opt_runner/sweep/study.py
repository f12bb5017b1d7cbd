"""The Optuna study of a search: in a journal on disk, which a kill at any moment leaves usable."""

import os
from pathlib import Path
from typing import Literal

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from opt_runner.datasets.batches import mix
from opt_runner.errors import UserError

Pruning = Literal["none", "median", "hyperband"]

# A run's progress is told to the pruner in percent of its budget: runs of different lengths, as of
# another batch size, are compared at the same place of their schedule of learning rates.
WHOLE = 100
_NOT_BEFORE = 20


def open_study(folder: Path, name: str, pruning: Pruning) -> optuna.Study:
    """The study of this name; a new one where there is none.

    Only for who holds the lock of `folder`. Raises UserError for a journal that is damaged.
    """
    journal = folder / "journal.log"
    _mend(journal)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(
            study_name=name,
            storage=JournalStorage(JournalFileBackend(str(journal))),
            pruner=_pruner(pruning),
            direction="minimize",
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{journal} is damaged ({error}): move it away and run the command again; what is "
            "trained is not trained again"
        ) from error


def ask(study: optuna.Study, space: "Distributions", seed: int) -> optuna.Trial:
    """A new trial. It depends on the seed and on the trials before it alone, so that a search that
    was cut off draws what it would have drawn."""
    number = len(study.get_trials(deepcopy=False))
    study.sampler = TPESampler(seed=mix(seed, number))
    return study.ask(space)


def cut_off(study: optuna.Study, space: "Distributions") -> list[optuna.Trial]:
    """The trials that a process had begun when it ended."""
    found = []
    for frozen in of_state(study, TrialState.RUNNING):
        if frozen.params.keys() == space.keys():
            found.append(optuna.Trial(study, frozen._trial_id))
        else:  # it was being drawn
            study.tell(frozen.number, state=TrialState.FAIL)
    return found


def of_state(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)


Distributions = dict[str, optuna.distributions.BaseDistribution]


def _pruner(pruning: Pruning) -> BasePruner:
    if pruning == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=_NOT_BEFORE)
    if pruning == "hyperband":
        return HyperbandPruner(min_resource=_NOT_BEFORE, max_resource=WHOLE)
    return NopPruner()


def _mend(journal: Path) -> None:
    """Undo what a killed process leaves: half a line, and Optuna's own lock."""
    for left in journal.parent.glob(f"{journal.name}.lock*"):
        left.unlink()
    if journal.exists():
        whole = journal.read_bytes().rfind(b"\n") + 1
        os.truncate(journal, whole)
