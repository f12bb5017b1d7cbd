"""What a part of the benchmark is asked, and what it gives: tables, notes, and rows in a file."""

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from opt_runner import __version__
from opt_runner.bench.samples import Summary
from opt_runner.config import compose
from opt_runner.console.screen import Screen
from opt_runner.errors import UserError, nearest
from opt_runner.files import write_whole
from opt_runner.run.device import Device

_LINUX = platform.system() == "Linux"

Row = dict[str, Any]
# What a column of a table shows of a row.
Column = Callable[[Row], str]


@dataclass(frozen=True)
class Settings:
    """out: where files go. hardware: arguments of opt-run, as `hardware.device=cpu`.

    samples: how many of each, where the parts' own numbers are not wanted.
    quick: a trial of the program itself, on tiny sizes: its times mean nothing.
    seconds: what `growth` may spend on one method.
    networks, batch_size: of `steps` and `networks`; none: what each of them has.
    """

    out: Path
    hardware: tuple[str, ...] = ()
    samples: int | None = None
    quick: bool = False
    seconds: float = 300.0
    networks: tuple[str, ...] = ()
    batch_size: int | None = None
    screen: Screen = field(default_factory=Screen)

    @cached_property
    def device(self) -> Device:
        """Sets the process's threads and memory use as well. Raises UserError."""
        return Device.of(compose.from_arguments(*self.hardware).hardware)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of opt-run, for the trainings of `steps` and `networks`."""
        batch = () if self.batch_size is None else (f"batch_size={self.batch_size}",)
        return (*self.hardware, *batch)

    def networks_of(self, known: Sequence[str], usual: Sequence[str]) -> Sequence[str]:
        """Those that are wanted of the known ones, or the usual ones. Raises UserError."""
        for name in self.networks:
            if name not in known:
                raise UserError(
                    f"--network: no {name!r}{nearest(name, known)} ({', '.join(known)})"
                )
        return self.networks or usual

    def count(self, full: int) -> int:
        """Samples to take, where a part would take `full`."""
        return self.samples or (2 if self.quick else full)


@dataclass
class Report:
    """n: samples asked of each row; a row's own count is in the row. notes: what a reader of the
    figures must know: how they were taken, what was left out and why."""

    n: int
    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def table(title: str, columns: Mapping[str, Column], rows: Iterable[Row]) -> Table:
    """A line a row. Where a row has an `error`, that is shown instead of its figures."""
    # Text, as rich would take what stands in square brackets for styles.
    made = Table(title=Text(title), title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for position, heading in enumerate(columns):
        made.add_column(heading, justify="right" if position else "left")
    first, *others = columns.values()
    for row in rows:
        shown = [row["error"]] if row.get("error") else [column(row) for column in others]
        made.add_row(*map(Text, (first(row), *shown)))
    return made


def text(key: str) -> Column:
    """The row's value as it stands."""
    return lambda row: str(row[key])


def spread(key: str, scale: float = 1.0, digits: int = 3) -> Column:
    """The row's summary: median [quartiles]."""

    def show(row: Row) -> str:
        summary: Summary | None = row.get(key)
        return summary.text(scale, digits) if summary else ""

    return show


def _limit(row: Row) -> str:
    return "" if row["limit"] is None else f"{row['limit']:g}"


def _met(row: Row) -> str:
    return {None: "", True: "yes", False: "NO"}[row["met"]]


# The two last columns of figures that have a limit.
LIMIT: dict[str, Column] = {"limit": _limit, "met": _met}


def write(part: str, report: Report, settings: Settings, command: str) -> Path:
    """Write <out>/<part>.json: the rows, with all that is needed to read or repeat them."""
    content = {
        "part": part,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "quick": settings.quick,
        "n": report.n,
        "threads": torch.get_num_threads(),
        **machine(settings.device),
        "notes": report.notes,
        "rows": report.rows,
    }
    # Summaries are the only objects in it that are not plain.
    written = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, default=asdict)
    path = settings.out / f"{part}.json"
    write_whole(path, written + "\n")
    return path


def machine(device: Device) -> dict[str, Any]:
    """What figures are measured on and with."""
    return {
        "hardware": {
            "device": device.name,
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if _LINUX else os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            # Of the last minute: what else ran. Threads that wait for each other at every
            # operation are slowed down many times by one busy neighbour.
            "load": round(os.getloadavg()[0], 2),
            # Convolutions in TF32 are faster and coarser; PyTorch allows them by default.
            "tf32": {
                "convolutions": torch.backends.cudnn.allow_tf32,
                "products": torch.backends.cuda.matmul.allow_tf32,
            },
        },
        "opt_runner": __version__,
        "torch": version("torch"),
        "python": platform.python_version(),
    }


def machine_line(device: Device) -> str:
    """The same in one line, for the terminal."""
    found = machine(device)
    on = found["hardware"]
    return (
        f"{on['device']}, {on['processor']}, torch {found['torch']}, Python {found['python']}; "
        f"load {on['load']:.2f} on {on['cores']} cores"
    )


def _processor() -> str:
    """The processor's name. `platform.processor()` is empty on most Linux systems."""
    if _LINUX:
        for entry in Path("/proc/cpuinfo").read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.processor() or platform.machine()
