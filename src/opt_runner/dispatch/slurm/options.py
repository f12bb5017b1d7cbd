"""Options of hydra/launcher=slurm, and the parameters of sbatch made from them."""

import shutil
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from opt_runner.config.schema import Config, Hardware
from opt_runner.console.screen import Screen
from opt_runner.dispatch.loop import LauncherOptions
from opt_runner.dispatch.slurm import queue
from opt_runner.dispatch.slurm.jobs import Jobs
from opt_runner.dispatch.slurm.submission import tell_others
from opt_runner.errors import UserError
from opt_runner.sweep.sweep import Sweep

_Positive = Annotated[int, Field(gt=0)]


class SlurmOptions(LauncherOptions):
    """The keys of conf/hydra/launcher/slurm.yaml, which explains them."""

    model_config = ConfigDict(coerce_numbers_to_str=True)
    backend = Jobs

    partition: str | None
    account: str | None
    qos: str | None
    timeout_min: _Positive
    gpus_per_node: int | str | None
    cpus_per_task: _Positive | None
    mem_gb: Annotated[float, Field(gt=0)] | None
    setup: tuple[str, ...] | None
    additional_parameters: dict[str, Any] | None
    array_parallelism: _Positive
    max_array: _Positive
    signal_delay_s: Annotated[int, Field(ge=0)]
    max_num_timeout: Annotated[int, Field(ge=0)]
    wait: bool
    cancel_others: bool

    @model_validator(mode="after")
    def _time_before_the_signal(self) -> Self:
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ValueError(
                f"signal_delay_s ({self.signal_delay_s} s) must be below timeout_min "
                f"({self.timeout_min} min), else a job gets the signal to save when it starts"
            )
        return self

    @property
    def here(self) -> bool:
        return False

    def connect(self) -> None:
        for command in ("sbatch", "squeue", "srun"):
            if shutil.which(command) is None:
                raise UserError(
                    f"hydra/launcher=slurm: {command} is not on PATH: run the command on a machine "
                    "of the cluster (a login node)"
                )

    def at_once(self, hardware: Hardware) -> int | None:
        return None

    def check_search(self) -> None:
        if not self.wait:
            raise UserError(
                "hydra.launcher.wait=false leaves before the runs have results, which this sweeper "
                "needs"
            )
        if self.cancel_others:
            raise UserError(
                "hydra.launcher.cancel_others=true is for grids: a search does not know beforehand "
                "which runs are its own"
            )

    def prepare(self, sweep: Sweep, screen: Screen) -> None:
        tell_others(sweep, screen, self.cancel_others)

    def placed(self, config: Config) -> Config:
        """Return the config with the kind of device that its job requests.

        So a job without a GPU fails, instead of training on the CPU. Raises UserError if Slurm does
        not say whether it has GPUs.
        """
        device = config.hardware.device
        if device.startswith("cuda:"):
            raise UserError(
                f"hardware.device={device}: which GPU a job gets is Slurm's choice: use cuda"
            )
        if device == "auto":
            gpus = self.gpus_per_node
            if gpus is None:
                gpus = int(queue.has_gpus(self.partition))
            device = "cpu" if gpus == 0 else "cuda"
        hardware = config.hardware.model_copy(update={"device": device})
        return config.model_copy(update={"hardware": hardware})

    def of_submitit(self, config: Config, name: str) -> dict[str, Any]:
        """Return submitit's parameters for jobs with this config; the rest is Slurm's default."""
        gpus = 1 if self.gpus_per_node is None else self.gpus_per_node
        cpus = self.cpus_per_task or config.hardware.threads
        parameters = {
            "name": name,
            "timeout_min": self.timeout_min,
            "mem_gb": self.mem_gb,
            "gpus_per_node": gpus if gpus and config.hardware.device == "cuda" else None,
            "cpus_per_task": cpus,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_setup": list(self.setup or ()) or None,
            "slurm_array_parallelism": self.array_parallelism,
            "slurm_signal_delay_s": self.signal_delay_s,
            "slurm_stderr_to_stdout": True,
            # Since Slurm 22.05 srun does not request its job's cores by itself.
            "slurm_srun_args": [f"--cpus-per-task={cpus}"] if cpus else None,
            "slurm_additional_parameters": {
                "requeue": True,
                **(self.additional_parameters or {}),
            },
        }
        return {key: value for key, value in parameters.items() if value is not None}
