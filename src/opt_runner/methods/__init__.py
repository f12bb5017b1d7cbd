"""The methods, one file each: plain training, the variants of OPT, their rivals and descendants."""

from opt_runner.methods.base import Method, method_options
from opt_runner.methods.cayley import Cayley
from opt_runner.methods.gs import GramSchmidt
from opt_runner.methods.hr import Householder
from opt_runner.methods.lengths.hyperball import Hyperball
from opt_runner.methods.lengths.oblique import Oblique
from opt_runner.methods.ls import Lowdin
from opt_runner.methods.maps.boft import ButterflyFinetuning
from opt_runner.methods.maps.givens import GivensRotations
from opt_runner.methods.maps.hra import HouseholderReflections
from opt_runner.methods.maps.oft import OrthogonalFinetuning
from opt_runner.methods.maps.parametrization import Parametrization
from opt_runner.methods.maps.poet import ReparameterizedTraining
from opt_runner.methods.ogd import OrthogonalGradientDescent
from opt_runner.methods.or_ import OrthogonalRegularization
from opt_runner.methods.penalties.comhe import CompressiveMinimumEnergy
from opt_runner.methods.penalties.dso import DoubleSoftOrthogonality
from opt_runner.methods.penalties.mc import MutualCoherence
from opt_runner.methods.penalties.mhe import MinimumEnergy
from opt_runner.methods.penalties.mma import MaximalMinimalAngles
from opt_runner.methods.penalties.ocnn import OrthogonalConvolution
from opt_runner.methods.penalties.so import SoftOrthogonality
from opt_runner.methods.penalties.srip import SpectralRestrictedIsometry
from opt_runner.methods.rotation import Rotation, SquareRotation
from opt_runner.methods.sopt import StochasticOPT
from opt_runner.methods.spectrum.iso import Iso
from opt_runner.methods.spectrum.pion import Pion
from opt_runner.methods.spectrum.sso import SpectralSphere
from opt_runner.methods.standard import Standard
from opt_runner.methods.starts.delta_orthogonal import DeltaOrthogonal
from opt_runner.methods.starts.orthogonal_init import OrthogonalInit
from opt_runner.methods.stiefel.frame import Frame
from opt_runner.methods.stiefel.landing import Landing
from opt_runner.methods.stiefel.manifold_muon import ManifoldMuon
from opt_runner.methods.stiefel.pogo import Pogo
from opt_runner.methods.stiefel.spel import Spel
from opt_runner.methods.upt import UnconstrainedTraining

# Plain training and the variants of OPT that its paper compares.
PAPER: dict[str, type[Method]] = {
    "standard": Standard,
    "gs": GramSchmidt,
    "hr": Householder,
    "ls": Lowdin,
    "cayley": Cayley,
    "ogd": OrthogonalGradientDescent,
    "or": OrthogonalRegularization,
    "sopt": StochasticOPT,
}

# All, family by family, in the order in which tables have them.
METHODS: dict[str, type[Method]] = {
    **PAPER,
    "upt": UnconstrainedTraining,
    "frame": Frame,
    "landing": Landing,
    "pogo": Pogo,
    "spel": Spel,
    "manifold_muon": ManifoldMuon,
    "pion": Pion,
    "iso": Iso,
    "oblique": Oblique,
    "hyperball": Hyperball,
    "sso": SpectralSphere,
    "oft": OrthogonalFinetuning,
    "boft": ButterflyFinetuning,
    "hra": HouseholderReflections,
    "givens": GivensRotations,
    "poet": ReparameterizedTraining,
    "parametrization": Parametrization,
    "mhe": MinimumEnergy,
    "comhe": CompressiveMinimumEnergy,
    "mma": MaximalMinimalAngles,
    "so": SoftOrthogonality,
    "dso": DoubleSoftOrthogonality,
    "mc": MutualCoherence,
    "srip": SpectralRestrictedIsometry,
    "ocnn": OrthogonalConvolution,
    "orthogonal_init": OrthogonalInit,
    "delta_orthogonal": DeltaOrthogonal,
}

__all__ = [
    "METHODS",
    "PAPER",
    "Method",
    "Rotation",
    "SquareRotation",
    "method_options",
    *sorted(c.__name__ for c in METHODS.values()),
]
