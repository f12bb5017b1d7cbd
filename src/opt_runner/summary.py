"""What OPT does with each weight of a network, as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.parameter import UninitializedParameter

from opt_runner.candidates import candidates
from opt_runner.methods import METHODS
from opt_runner.methods.stack import Stack

_PLAIN, _FROZEN = "plain", "frozen"
# Longer tables have one row for layers that are alike.
_MOST_ROWS = 30


@dataclass(frozen=True)
class Row:
    """A line of the summary.

    layer: a layer, or a parameter that is none. type: of its module. d, n: of W, None where
    there is no W. trained: the parameters that train for it. method: its name; `plain`: it trains
    as it is; `frozen`: it does not train. note: why it is plain, or what to mind.
    """

    layer: str
    type: str
    d: int | None
    n: int | None
    trained: int
    method: str
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """Every weight of a network, and what trains for it.

    rows: every layer in module order, then every other weight; those of fewer than two dimensions
    are left out, as biases and BatchNorm's: `others` of them, with `others_trained` parameters that
    train.

    Printing it, or `rich.print`, shows a table.
    """

    rows: list[Row]
    others: int
    others_trained: int

    @property
    def trained(self) -> int:
        """Return the number of parameters that train in all."""
        return self.others_trained + sum(row.trained for row in self.rows)

    def __rich__(self) -> Table:
        table = Table(box=SIMPLE_HEAD, header_style="bold")
        for heading in ("layer", "type", "d", "n", "trained", "method"):
            right = heading in ("d", "n", "trained")
            table.add_column(heading, justify="right" if right else "left")
        for name, row, trained in self._shown():
            sizes = ("" if size is None else f"{size:,}" for size in (row.d, row.n))
            method = f"{row.method} ({row.note})" if row.note else row.method
            table.add_row(name, row.type, *sizes, f"{trained:,}", method)
        if self.others:
            name = f"{self.others} biases, norms and the like"
            table.add_row(name, "", "", "", f"{self.others_trained:,}", _PLAIN)
        table.caption = f"{self.trained:,} parameters train"
        return table

    def __str__(self) -> str:
        console = Console(width=120, highlight=False, markup=False, emoji=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def _shown(self) -> list[tuple[str, Row, int]]:
        """Return the name of each row shown, a row that stands for all, and what trains."""
        if len(self.rows) <= _MOST_ROWS:
            return [(row.layer, row, row.trained) for row in self.rows]
        alike: dict[object, list[Row]] = {}
        for row in self.rows:
            key = (row.type, row.d, row.n, row.trained, row.method, row.note)
            alike.setdefault(key, []).append(row)
        return [
            (
                rows[0].layer + (f" and {len(rows) - 1} more" if len(rows) > 1 else ""),
                rows[0],
                sum(row.trained for row in rows),
            )
            for rows in alike.values()
        ]


def summarise(
    network: nn.Module, stacks: Sequence[Stack], per_group: bool, notes: Mapping[str, str]
) -> Summary:
    """Return the summary of a network and of the stacks that cover its layers.

    notes: {layer: what the table says beside its method}.
    """
    covering = {layer.name: stack for stack in stacks for layer in stack.layers}
    rows: list[Row] = []
    # Also by the names that shared ones have elsewhere.
    parameters = dict(network.named_parameters(remove_duplicate=False))
    viewed: set[int] = set()
    for one in candidates(network, per_group):
        layer = one.layer
        if layer.parameter not in parameters:  # made by a parametrization, whose own follow below
            continue
        viewed.add(id(parameters[layer.parameter]))
        stack = covering.get(layer.name)
        if stack is None:
            trained = 0 if one.frozen else layer.d * layer.n
            method = _FROZEN if one.frozen else _PLAIN
        else:
            trained = sum(t.numel() for t in stack.trained.values()) // len(stack.layers)
            trained += layer.d * layer.n if stack.method.trains_weight else 0
            method = _name(stack)
        note = notes.get(layer.name, "")
        rows.append(Row(layer.name, one.type.__name__, layer.d, layer.n, trained, method, note))
    others = others_trained = 0
    modules = dict(network.named_modules())
    for name, parameter in network.named_parameters():
        if id(parameter) in viewed:
            continue
        lazy = isinstance(parameter, UninitializedParameter)  # as of LazyBatchNorm
        trained = parameter.numel() if parameter.requires_grad and not lazy else 0
        if parameter.ndim < 2:
            others, others_trained = others + 1, others_trained + trained
            continue
        kind = type(modules[name.rpartition(".")[0]]).__name__
        method = _PLAIN if parameter.requires_grad else _FROZEN
        rows.append(Row(name, kind, None, None, trained, method))
    return Summary(rows, others, others_trained)


def _name(stack: Stack) -> str:
    cls = type(stack.method)
    return next((name for name, known in METHODS.items() if known is cls), cls.__name__)
