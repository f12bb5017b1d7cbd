"""The methods, one file each: plain training and the variants of OPT."""

from opt_runner.methods.base import Method, method_options
from opt_runner.methods.cayley import Cayley
from opt_runner.methods.gs import GramSchmidt
from opt_runner.methods.hr import Householder
from opt_runner.methods.ls import Lowdin
from opt_runner.methods.ogd import OrthogonalGradientDescent
from opt_runner.methods.or_ import OrthogonalRegularization
from opt_runner.methods.rotation import Rotation, SquareRotation
from opt_runner.methods.sopt import StochasticOPT
from opt_runner.methods.standard import Standard

METHODS: dict[str, type[Method]] = {
    "standard": Standard,
    "gs": GramSchmidt,
    "hr": Householder,
    "ls": Lowdin,
    "cayley": Cayley,
    "ogd": OrthogonalGradientDescent,
    "or": OrthogonalRegularization,
    "sopt": StochasticOPT,
}

__all__ = [
    "METHODS",
    "Method",
    "Rotation",
    "SquareRotation",
    "method_options",
    *sorted(c.__name__ for c in METHODS.values()),
]
