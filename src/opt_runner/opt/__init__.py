"""OPT around a network: layers as W, stacks of layers, effective weights."""

from opt_runner.opt.model import OPT, merge

__all__ = ["OPT", "merge"]
