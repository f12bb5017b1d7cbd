"""Orthogonal Over-Parameterized Training (Liu et al., CVPR 2021) for any PyTorch network.

opt = OPT(network, method="cayley")
optimizer = opt.optimizer(lr=0.1)
loss = criterion(opt(x), y) + opt.penalty()
loss.backward(); optimizer.step()
plain = merge(opt)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opt_runner.choice import Rule
    from opt_runner.geometry import hyperspherical_energy
    from opt_runner.module_types import register_layer
    from opt_runner.opt import OPT, merge

__version__ = "0.1.0"
__all__ = ["OPT", "Rule", "hyperspherical_energy", "merge", "register_layer"]


def __getattr__(name: str) -> Any:
    """Import torch only where a name needs it: `opt-run --help` must answer fast."""
    modules = {
        "OPT": "opt",
        "Rule": "choice",
        "hyperspherical_energy": "geometry",
        "merge": "opt",
        "register_layer": "module_types",
    }
    if name in modules:
        return getattr(import_module(f"opt_runner.{modules[name]}"), name)
    raise AttributeError(f"module 'opt_runner' has no attribute {name!r}")
