"""Group runs into tables and rows.

Runs are in one table only if they differ only in method and seed. Runs with another budget,
dataset, network, device or version of the program make another table.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from opt_runner.config.choices import without_texts
from opt_runner.config.schema import as_typed
from opt_runner.methods import METHODS
from opt_runner.records.stored import StoredRun
from opt_runner.report.comparison import Comparison, TableRow

_VERSIONS = ("opt_runner", "torch", "device", "data")
_NAMES = ("dataset.name", "dataset._target_")
_CHOICES = ("optimizer", "schedule")
_ORDER = {name: place for place, name in enumerate(METHODS)}


def compare(runs: Iterable[StoredRun]) -> list[Comparison]:
    """Return the tables of these runs, largest first."""
    runs = list(runs)
    keys = [_key(run.table_keys) for run in runs]
    versions: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for run, key in zip(runs, keys, strict=True):
        versions[key] |= {run.versions} - {()}
    groups: dict[tuple[str, tuple[str, ...]], list[StoredRun]] = defaultdict(list)
    for run, key in zip(runs, keys, strict=True):
        # A run that failed too early to know its versions joins the first table of its keys; if
        # there is none, nobody knows whether its data are those at another path.
        version = run.versions or min(versions[key], default=())
        groups[_key(_without_paths(run.table_keys)) if version else key, version].append(run)
    same_names = defaultdict(list)
    for (_, version), group in groups.items():
        config, own = group[0].config, dict(zip(_VERSIONS, version, strict=False))
        names = config["dataset"]["name"], config["model"]["name"]
        same_names[names].append((group[0].table_keys, own, group))
    tables = []
    for names, described in same_names.items():
        if len({own.get("data") for _, own, _ in described}) == 1:
            described = [(_without_paths(of), own, group) for of, own, group in described]
        differing = differing_keys([of_table for of_table, _, _ in described])
        # A table without versions, whose runs all failed early, distinguishes no other table.
        differing |= differing_keys([own for _, own, _ in described if own])
        for of_table, own, group in described:
            differs = {key: value for key, value in (of_table | own).items() if key in differing}
            tables.append(Comparison(*names, differs, _rows(group)))
    return sorted(tables, key=lambda table: -sum(len(row.runs) for row in table.rows))


def _without_paths(table_keys: dict[str, Any]) -> dict[str, Any]:
    """Return the keys without texts among a dataset's options: they may be paths of a machine.

    The data's fingerprint, one of a run's versions, says whether the data are the same.
    """
    kept = dict(table_keys)
    for key in table_keys:
        if key.startswith("dataset.") and key not in _NAMES:
            kept[key] = without_texts(kept[key])
            if kept[key] is None:
                del kept[key]
    return kept


def _rows(group: Sequence[StoredRun]) -> list[TableRow]:
    """Return the package's methods in their usual order, then others by name."""
    forms: dict[str, list[StoredRun]] = defaultdict(list)
    for run in group:
        forms[_key(run.method_keys)].append(run)

    rows = []
    for runs in forms.values():
        # If a seed was run again, the last record counts, of those that have a settled result.
        written = sorted(runs, key=lambda run: (*_state(run), _written(run)))
        latest = {run.seed: run for run in written}
        rows.append([latest[seed] for seed in sorted(latest)])
    rows.sort(key=lambda runs: (_ORDER.get(runs[0].method, len(_ORDER)), runs[0].method))
    return [
        TableRow(label, runs, _stated(runs, "colour"))
        for label, runs in zip(_labels(rows), rows, strict=True)
    ]


def _state(run: StoredRun) -> tuple[bool, bool]:
    return (bool(run.result and run.result.settled), run.result is not None)


def _labels(rows: Sequence[Sequence[StoredRun]]) -> list[str]:
    """Return a label for each row: the method's, and the options in which its rows differ."""
    owners: dict[str, set[str]] = defaultdict(set)
    names: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    forms: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for runs in rows:
        owners[_label(runs)].add(runs[0].method)
        names[runs[0].method].add(_chosen(runs[0]))
        forms[runs[0].method, *_chosen(runs[0])].append(runs[0].method_keys)
    differing = {kind: differing_keys(keys) for kind, keys in forms.items()}
    labels = []
    for runs in rows:
        method, chosen, label = runs[0].method, _chosen(runs[0]), _label(runs)
        own = f" ({method})" if len(owners[label]) > 1 else ""
        # Options of an optimizer are its own: beside another optimizer its name says enough.
        others = zip(_CHOICES, chosen, zip(*names[method], strict=True), strict=True)
        named = "".join(f" {choice}={name}" for choice, name, all_ in others if len({*all_}) > 1)
        options = "".join(
            f" {key}={as_typed(value)}"
            for key, value in runs[0].method_keys.items()
            if key in differing[method, *chosen]
        )
        labels.append(label + own + named + options)
    # Values that read alike, as 1 and 1.0, leave rows alike.
    return [
        f"{label} ({labels[:place].count(label) + 1})" if labels.count(label) > 1 else label
        for place, label in enumerate(labels)
    ]


def _chosen(run: StoredRun) -> tuple[str, ...]:
    """Return the names of the optimizer and the schedule."""
    return tuple(str(run.config[choice].get("name", "")) for choice in _CHOICES)


def _label(runs: Sequence[StoredRun]) -> str:
    return _stated(runs, "label") or runs[0].method


def _stated(runs: Sequence[StoredRun], name: Literal["label", "colour"]) -> str | None:
    """Return the method's label or colour, from its records if they have it."""
    for run in runs:
        if run.result and (value := getattr(run.result, name)):
            return str(value)
    method = METHODS.get(runs[0].method)
    return getattr(method, name) if method else None


def _written(run: StoredRun) -> float:
    path = run.record.result if run.record.result.exists() else run.record.config
    return path.stat().st_mtime


def differing_keys(every: Sequence[dict[str, Any]]) -> set[str]:
    """Return the keys whose values differ."""
    return {
        key
        for one in every[1:]
        for key in one.keys() | every[0].keys()
        if key not in one or key not in every[0] or repr(one[key]) != repr(every[0][key])
    }


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
