"""What the command line asks of every part."""

from dataclasses import dataclass
from pathlib import Path

from opt_runner.hardware import Hardware


@dataclass(frozen=True)
class Settings:
    """hardware: device and layout, as for a cell. threads: of the CPU. out: where files go.

    samples: how many of each, where the parts' own numbers are not wanted.
    quick: a trial of the program itself, on tiny sizes: its times mean nothing.
    seconds: what `growth` may spend on one method.
    plain_malloc: without `hardware.reuse_memory`.
    """

    hardware: Hardware
    threads: int
    out: Path
    samples: int | None = None
    quick: bool = False
    seconds: float = 300.0
    plain_malloc: bool = False

    def count(self, full: int) -> int:
        """Samples to take, where a part would take `full`."""
        return self.samples or (2 if self.quick else full)
