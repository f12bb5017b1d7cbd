"""Optimizers of the config group `optimizer`. Classes of torch.optim may be named as well.

search: the ranges that a fair comparison tunes, where they are not those of SGD.
"""

from opt_runner.optimizers.choices import SGD, AdamW, Lion, Muon
from opt_runner.optimizers.joint import Joint
from opt_runner.optimizers.soap import SOAP

__all__ = ["SGD", "SOAP", "AdamW", "Joint", "Lion", "Muon"]
