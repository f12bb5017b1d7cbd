"""Settings of a part, and its report: tables, notes, and rows in a file."""

import json
import os
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from benchmarks.samples import Summary, figure
from opt_runner import __version__
from opt_runner.config import compose
from opt_runner.console.screen import new_console
from opt_runner.errors import UserError, nearest
from opt_runner.machine import available_cores
from opt_runner.run.device import Device

Row = dict[str, Any]
# A key of the rows, or a key and a factor. Summaries show median [quartiles].
Column = str | tuple[str, float]


@dataclass(frozen=True)
class Settings:
    """The options of the command: see its help."""

    out: Path
    parts: Sequence[str] = ()
    device: str = "auto"
    threads: int = 2
    plain_malloc: bool = False
    samples: int | None = None
    quick: bool = False
    seconds: float = 300.0
    columns: int = 64
    networks: Sequence[str] = ()
    batch_size: int | None = None

    @property
    def hardware(self) -> tuple[str, ...]:
        """Arguments of opt-run."""
        return (
            f"hardware.device={self.device}",
            f"hardware.threads={self.threads}",
            f"hardware.reuse_memory={not self.plain_malloc}",
        )

    @cached_property
    def used(self) -> Device:
        """The device. The process's threads and use of memory are set as well."""
        return Device.of(compose.from_arguments(*self.hardware).hardware)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of opt-run for the trainings of `steps` and `networks`."""
        batch = () if self.batch_size is None else (f"batch_size={self.batch_size}",)
        return (*self.hardware, *batch)

    def networks_of(self, known: Collection[str], usual: Sequence[str]) -> Sequence[str]:
        """Return the requested networks, or the usual ones. Raises UserError if unknown."""
        for name in self.networks:
            if name not in known:
                raise UserError(f"--network: no {name!r}{nearest(name, known)}")
        return self.networks or usual

    def count(self, full: int) -> int:
        """Return the number of samples to take where a part would take `full`."""
        return self.samples or (2 if self.quick else full)


@dataclass
class Report:
    """Results of a part. n: samples asked of each row; a row's own count is in the row."""

    n: int
    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def say(line: str) -> None:
    """Print a line."""
    new_console().print(line, markup=False)


def table(title: str, columns: Mapping[str, Column], rows: Iterable[Row]) -> Table:
    """Return a table with a line a row; a row's `error` stands in the place of its figures."""
    # Text, because rich takes words in square brackets for styles.
    made = Table(title=Text(title), title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for position, heading in enumerate(columns):
        made.add_column(heading, justify="right" if position else "left")
    for row in rows:
        cells = [_cell(row, *([c] if isinstance(c, str) else c)) for c in columns.values()]
        made.add_row(*map(Text, [cells[0], row["error"]] if row.get("error") else cells))
    return made


def _cell(row: Row, key: str, scale: float = 1.0) -> str:
    value = row.get(key)
    if isinstance(value, Summary):
        return value.text(scale)
    return figure(scale * value) if isinstance(value, float | int) else str(value or "")


def publish(part: str, report: Report, settings: Settings, command: str) -> None:
    """Print tables and notes, and write OUT/PART.json, with all that is needed to repeat them."""
    for made in report.tables:
        new_console().print(made)
    for note in report.notes:
        say(f"- {note}")
    content = {
        "part": part,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "n": report.n,
        "threads": torch.get_num_threads(),
        "device": settings.used.name,
        "processor": _processor(),
        "cores": available_cores(),
        "load": round(os.getloadavg()[0], 2),
        "opt_runner": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "notes": report.notes,
        "rows": report.rows,
    }
    # Summaries are the only objects in it that are not plain.
    written = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, default=asdict)
    path = settings.out / f"{part}.json"
    path.write_text(written + "\n")
    say(f"written: {path}")


def _processor() -> str:
    """Return the processor's name, which `platform.processor()` does not tell on Linux."""
    info = Path("/proc/cpuinfo")
    entries = info.read_text().splitlines() if info.exists() else []
    names = [entry.partition(":")[2].strip() for entry in entries if "model name" in entry]
    return names[0] if names else platform.processor()
