"""Networks that the command offers. They are ordinary modules and know nothing of OPT."""

from opt_runner.networks.mlp import MLP
from opt_runner.networks.plain_cnn import PlainCNN

__all__ = ["MLP", "PlainCNN"]
