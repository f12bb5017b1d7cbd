"""The slots of this machine: how many runs it executes at once, and what each of them gets."""

from dataclasses import dataclass

from opt_runner.config.schema import Hardware
from opt_runner.machine import available_cores, visible_gpus


@dataclass(frozen=True)
class Slot:
    """Room for one run at a time. gpu: as CUDA_VISIBLE_DEVICES names it; None: no GPU."""

    number: int
    gpu: str | None
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """What a worker must find set before it imports torch."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {**thread_variables(self.threads), **gpu}


def slots(hardware: Hardware, count: int | None = None, runs_per_gpu: int = 1) -> list[Slot]:
    """A slot a GPU (or `runs_per_gpu`) where there are GPUs and `hardware` may use them; else one
    for every `hardware.threads` cores, which without a number of threads is one for all cores.

    count: so many instead; a run then has its share of the cores, unless `hardware.threads` says.
    """
    cores = available_cores()
    gpus = [] if hardware.device == "cpu" else visible_gpus()
    if hardware.device.startswith("cuda:"):
        gpus = gpus[int(hardware.device.removeprefix("cuda:")) :][:1]
    places: list[str | None] = [gpu for _ in range(runs_per_gpu) for gpu in gpus]
    if not places:
        places = [None] * max(1, cores // (hardware.threads or cores))
    if count is not None:
        places = [places[i % len(places)] for i in range(count)]
    threads = hardware.threads or max(1, cores // len(places))
    return [Slot(number, gpu, threads) for number, gpu in enumerate(places)]


def thread_variables(threads: int) -> dict[str, str]:
    """For the environment of a process, before it imports numpy or torch."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads))
