"""The network of a finished run: read, exported, and tested on other data."""

from opt_runner.trained.evaluation import Evaluation, evaluate
from opt_runner.trained.export import FORMATS, export
from opt_runner.trained.network import Trained, read
from opt_runner.trained.trust import Trust

__all__ = ["FORMATS", "Evaluation", "Trained", "Trust", "evaluate", "export", "read"]
