"""Orthogonal Over-Parameterized Training (Liu et al., CVPR 2021) for any PyTorch network.

opt = OPT(network, method="cayley")
optimizer = opt.optimizer(lr=0.1)
loss = criterion(opt(x), y) + opt.penalty()
loss.backward(); optimizer.step()
plain = merge(opt)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opt_runner.choice import Rule
    from opt_runner.geometry import hyperspherical_energy
    from opt_runner.opt import OPT, merge

__version__ = "0.1.0"
__all__ = ["OPT", "Rule", "hyperspherical_energy", "merge"]


def __getattr__(name: str) -> Any:
    """Import torch only where a name needs it: `opt-run --help` must answer fast."""
    if name in ("OPT", "merge"):
        from opt_runner import opt

        return getattr(opt, name)
    if name == "Rule":
        from opt_runner.choice import Rule

        return Rule
    if name == "hyperspherical_energy":
        from opt_runner.geometry import hyperspherical_energy

        return hyperspherical_energy
    raise AttributeError(f"module 'opt_runner' has no attribute {name!r}")
