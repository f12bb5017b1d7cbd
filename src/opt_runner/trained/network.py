"""The trained, plain network that a finished run left in its record."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from opt_runner.config import compose
from opt_runner.config.schema import Config
from opt_runner.datasets import Interface
from opt_runner.errors import UserError, first_line
from opt_runner.records import stored, weights
from opt_runner.records.record import Record
from opt_runner.run.build import dtype_of, network_of
from opt_runner.trained.trust import STRANGER, Trust


@dataclass(frozen=True)
class Trained:
    """A trained network: on the CPU, in the precision of its weights, in mode `eval`.

    trust: the trust in the record's other components.
    """

    record: Record
    config: Config
    interface: Interface
    network: nn.Module
    trust: Trust

    @property
    def name(self) -> str:
        """Return a name for files, different for every run."""
        config = self.config
        return f"{config.model.name}-{config.method.name}-{self.record.directory.name}"


def read(directory: Path, trust: Trust = STRANGER) -> Trained:
    """Return the network of the record at `directory`. Of its config only the model is built.

    Raises UserError if it is no record, its run has not finished, it is damaged, or its model is
    not trusted.
    """
    directory = directory.absolute()
    run = stored.read(directory)
    if run is None:
        raise UserError(
            f"{directory} is no record of opt-run: give the folder of one run, which holds its "
            "config.yaml, as outputs/default/digits/cnn6/cayley/seed0-SIGNATURE"
        )
    if run.result is None or run.status != "finished":
        raise UserError(
            f"{directory}: the run must have finished, and is {run.status}; its command: "
            f"{run.command}"
        )
    interface = weights.read_interface(run.record.weights)
    weights.check(run.record.weights)
    try:
        config = compose.validate(run.config)
        trust.check(config.model, "model")
        network = network_of(config, interface.gives, run.result.steps)
    except UserError as error:
        lines = [f"{run.record.config}: {line}" for line in str(error).splitlines()]
        raise UserError("\n".join(lines)) from error
    except Exception as error:  # of a size that no network has, in a file of a stranger
        raise UserError(
            f"{run.record.weights} does not fit: the network cannot be built with the sizes in it "
            f"({first_line(error)})"
        ) from error
    network = network.to(dtype_of(config))
    weights.load(run.record.weights, network)
    return Trained(run.record, config, interface, network.eval(), trust)
