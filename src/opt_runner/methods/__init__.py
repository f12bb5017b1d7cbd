"""The variants of OPT, one file each, and `standard`."""

from opt_runner.methods.base import Method, method_options
from opt_runner.methods.cayley import Cayley
from opt_runner.methods.gs import GramSchmidt
from opt_runner.methods.hr import Householder
from opt_runner.methods.ls import Lowdin
from opt_runner.methods.ogd import OrthogonalGradientDescent
from opt_runner.methods.or_ import OrthogonalRegularization
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

__all__ = ["METHODS", "Method", "method_options", *sorted(c.__name__ for c in METHODS.values())]
