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

__version__ = "0.2.0"
__all__ = ["OPT", "Rule", "hyperspherical_energy", "merge", "register_layer"]


_PLACES = {
    "OPT": "opt",
    "Rule": "choice",
    "hyperspherical_energy": "geometry",
    "merge": "opt",
    "register_layer": "module_types",
}


def __getattr__(name: str) -> Any:
    """Import torch only where a name needs it: `opt-run --help` must answer fast."""
    if name in _PLACES:
        return getattr(import_module(f"opt_runner.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'opt_runner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
