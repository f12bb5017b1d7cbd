"""The geometry that OPT keeps: angles between a layer's neurons, and hyperspherical energy.

Neurons are the n columns of W (d x n). Only their directions count, the unit columns w_i. Sources:
Liu et al., "Learning towards Minimum Hyperspherical Energy" (NeurIPS 2018) and "Orthogonal
Over-Parameterized Training" (CVPR 2021), section 3.

The energy itself is hard to read: any n neurons in d dimensions have nearly the same energy.
An **energy excess** is the difference to random neurons, in standard deviations of these:

    excess = (E(W) - mean) / std,  mean and std of E over random neurons of the same d and n

Random neurons are independent and uniform on the sphere S^(d-1): the directions of a Gaussian W.
So a Gaussian W has an excess between about -3 and 3, and crowded neurons have a large one.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

EXPONENTS = (0, 1, 2)
ANGLE_BINS = 36  # of 5 degrees

# The number of neurons whose pairs are computed at once: 8 MiB of distances.
_MOST_AT_ONCE = 1024
# The least squared distance for which 2 - 2 <w_i, w_j> has 13 digits.
_NEAR = 0.02


@dataclass(frozen=True)
class LayerGeometry:
    """The geometry of one layer's neurons, computed from their pairs.

    A rotation of all neurons, or a change of their lengths, changes nothing here.

    Undefined values are NaN: all values except `angles` if a column of W is zero, because it has
    no direction; `largest_cosine` and the excesses of a single neuron; the excesses of a size
    whose random neurons have no finite standard deviation, see `random_energy`. Two equal neurons
    have infinite energies and excesses. Two opposite neurons have an infinite half-space excess,
    or a large one if rounding keeps them apart.
    """

    energy: dict[int, float]  # s -> E_s
    energy_excess: dict[int, float]  # s -> the excess of E_s
    half_space_excess: float  # excess of the half-space energy, see `random_half_space_energy`
    largest_cosine: float  # largest |<w_i, w_j>|: 1 where two neurons are parallel or opposite
    angles: list[int]  # pairs by angle, in bins of equal width from 0 to 180 degrees


@dataclass(frozen=True)
class Geometry:
    """The geometry of a network's layers, as records keep it: {layer: value}.

    energy: E_1. energy_excess: of E_0, E_1 and E_2, with the keys "0", "1" and "2". angles: the
    number of pairs in each bin, over all layers. A NaN of `LayerGeometry` is None in JSON.
    """

    energy: dict[str, float | None]
    energy_excess: dict[str, dict[str, float | None]]
    half_space_excess: dict[str, float | None]
    largest_cosine: dict[str, float | None]
    angles: list[int]

    @classmethod
    def of(cls, neurons: Mapping[str, Tensor]) -> Self:
        """Return the geometry of V (d, n) by layer."""
        layers = {name: layer_geometry(V) for name, V in neurons.items()}
        return cls(
            energy={name: layer.energy[1] for name, layer in layers.items()},
            energy_excess={
                name: {str(s): excess for s, excess in layer.energy_excess.items()}
                for name, layer in layers.items()
            },
            half_space_excess={name: layer.half_space_excess for name, layer in layers.items()},
            largest_cosine={name: layer.largest_cosine for name, layer in layers.items()},
            angles=[sum(b) for b in zip(*(one.angles for one in layers.values()), strict=True)],
        )


def layer_geometry(W: Tensor, angle_bins: int = ANGLE_BINS) -> LayerGeometry:
    """Return the geometry of one layer's W (d, n), computed from the distances of its pairs.

    angle_bins: the number of bins of `angles`. Pairs with a zero column have no angle and are in
    no bin.
    """
    d, n = W.shape
    energy = dict.fromkeys(EXPONENTS, 0.0)
    half_space_energy = 0.0
    largest_cosines: list[Tensor] = []
    angles = torch.zeros(angle_bins, dtype=torch.int64)
    for some in _pair_distances_in_parts(W):
        distance = some.cpu()
        # ||w_i + w_j||^2 = 4 - ||w_i - w_j||^2. Rounding may make it negative for opposite neurons.
        distance_to_opposite = (4 - distance.square()).clamp(min=0).sqrt()
        of_some = {s: float(_energy(distance, s)) for s in EXPONENTS}
        energy = {s: energy[s] + of_some[s] for s in EXPONENTS}
        half_space_energy += of_some[0] + float(_energy(distance_to_opposite, 0))
        cosine = (1 - distance.square() / 2).clamp(-1, 1)
        largest_cosines += [cosine.abs().max()] if len(cosine) else []
        angle = 2 * (distance / 2).clamp(max=1).asin()
        angles += torch.histc(angle, angle_bins, 0, torch.pi).long()
    return LayerGeometry(
        energy=energy,
        energy_excess={s: _excess(energy[s], *random_energy(d, n, s)) for s in EXPONENTS},
        half_space_excess=_excess(half_space_energy, *random_half_space_energy(d, n)),
        largest_cosine=float(torch.stack(largest_cosines).max()) if n > 1 else math.nan,
        angles=angles.tolist(),
    )


def hyperspherical_energy(W: Tensor, s: float = 1.0) -> Tensor:
    """Return the energy E_s.

    E_s is the sum over i != j of ||w_i - w_j||^-s for s > 0, of log(1 / ||w_i - w_j||) for s = 0.

    w_i are the columns of W (..., d, n) scaled to unit length; the result has the shape `...`.
    Distances are taken in float64 from differences, not from cosines: two almost equal neurons,
    where the energy is largest, would otherwise lose every digit.

    Raises ValueError for s < 0. A zero column has no direction: the energy is then NaN. A single
    neuron has energy 0, two equal ones an infinite energy.
    """
    _check_exponent(s)
    return _energy(_pair_distances(W), s)


def random_energy(d: int, n: int, s: float = 1.0) -> tuple[float, float]:
    """Return mean and standard deviation of E_s over n random neurons in d dimensions.

    The formulas are closed.

    For independent uniform u and v, ||u - v|| = 2 sqrt(B) where B = (1 - <u, v>) / 2 has the beta
    distribution with both parameters a = (d - 1) / 2. So, with the functions gamma G, beta, digamma
    psi and trigamma psi1, one pair has

        s > 0:  mean   m(s) = E ||u - v||^-s = 2^-s G(a - s/2) G(2a) / (G(a) G(2a - s/2))
                            = 2^-s beta(a - s/2, a) / beta(a, a)
                variance    m(2s) - m(s)^2
        s = 0:  mean        (psi(2a) - psi(a)) / 2 - log 2
                variance    (psi1(a) - psi1(2a)) / 4

    and E_s sums n (n - 1) ordered pairs: its mean is n (n - 1) times theirs. Different pairs are
    uncorrelated although they share a neuron: given u, the mean over v is m(s) whatever u is (E_s
    is a degenerate U-statistic). So the variance of E_s is 2 n (n - 1) times theirs: n (n - 1) / 2
    pairs, each counted twice.

    Near neurons make the moments infinite in few dimensions: the mean is finite for d > s + 1, the
    standard deviation for d > 2s + 1 (d > 1, 3, 5 for s = 0, 1, 2). Otherwise they are `inf`, and
    the excess is not defined.

    Raises ValueError for s < 0. Source of the mean, the energy of the uniform measure: Brauchart,
    Hardin and Saff, "The next-order term for optimal Riesz and logarithmic energy asymptotics on
    the sphere" (2012); of uncorrelated pairs: Hoeffding, "A class of statistics with asymptotically
    normal distribution" (1948).
    """
    _check_exponent(s)
    if n < 2:
        return 0.0, 0.0
    if d <= s + 1:
        return math.inf, math.inf
    from scipy.special import digamma, polygamma  # slow to import

    a = (d - 1) / 2
    if s == 0:
        mean = (digamma(2 * a) - digamma(a)) / 2 - math.log(2)
        std = math.sqrt(polygamma(1, a) - polygamma(1, 2 * a)) / 2
    else:
        mean, std = math.exp(_log_moment(d, s)), math.inf
        if d > 2 * s + 1:
            # Not m(2s) - m(s)^2: the difference of the two is only 1 / 4d of each.
            std = mean * math.sqrt(math.expm1(_log_moment(d, 2 * s) - 2 * _log_moment(d, s)))
    return float(n * (n - 1) * mean), float(math.sqrt(2 * n * (n - 1)) * std)


def random_half_space_energy(d: int, n: int) -> tuple[float, float]:
    """Return mean and standard deviation of the half-space energy of n random neurons in R^d.

    The half-space energy does not distinguish a neuron from its opposite. With s = 0 it is the sum
    over i != j of log(1 / ||w_i - w_j||) + log(1 / ||w_i + w_j||): half of E_0 of [W, -W] without
    the pairs (w_i, -w_i), whose distance is always 2.

    In many dimensions it shows more than E_s. There t = <w_i, w_j> is about d^-1/2, so in the
    series of a term of E_s, c0 + c1 t + c2 t^2 + ..., the term c1 t varies most. But the sum of t
    over pairs is, up to a constant, the squared length of the sum of all neurons, which does not
    show how far neurons are from orthogonal. Opposite pairs cancel t and leave t^2, which shows it.
    Every s leaves the same t^2, so s = 0 is enough; its moments are finite for every d > 1 (`inf`
    for d = 1).

    In the symbols of `random_energy`, log(1 / ||u - v||) + log(1 / ||u + v||) has the mean
    psi(2a) - psi(a) - 2 log 2 and, as Cov(log B, log(1 - B)) = -psi1(2a), the variance
    (psi1(a) - 2 psi1(2a)) / 2. Pairs are uncorrelated for the same reason.

    Source of the half space: Liu et al. (NeurIPS 2018), half-space MHE.
    """
    if n < 2:
        return 0.0, 0.0
    if d < 2:
        return math.inf, math.inf
    from scipy.special import polygamma

    a = (d - 1) / 2
    mean, _ = random_energy(d, n, 0)
    variance = (polygamma(1, a) - 2 * polygamma(1, 2 * a)) / 2
    return 2 * mean, math.sqrt(2 * n * (n - 1) * variance)


def orthogonality_error(Q: Tensor) -> Tensor:
    """Return the largest entry of |Q^T Q - I| for Q (..., d, d); the result has the shape `...`."""
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    return (Q.mT @ Q - eye).abs().amax((-2, -1))


def _pair_distances(W: Tensor) -> Tensor:
    """Return ||w_i - w_j|| for i < j in float64, (..., n (n - 1) / 2); NaN with a zero column."""
    neurons = _directions(W)
    distance = _distances(neurons, neurons)
    n = neurons.shape[-2]
    i, j = torch.triu_indices(n, n, offset=1, device=W.device)
    return distance[..., i, j]


def _pair_distances_in_parts(W: Tensor) -> Iterator[Tensor]:
    """Yield the distances between the neurons of W (d, n), some at a time if there are many.

    All at once would take 20 GB for an embedding of 50,000 tokens. Then they are computed from
    products, 2 - 2 <w_i, w_j>, which is many times as fast; where two neurons are so near that
    digits would be lost, from differences.
    """
    n = W.shape[-1]
    if n <= _MOST_AT_ONCE:
        yield _pair_distances(W)
        return
    neurons = _directions(W)
    rows = max(1, _MOST_AT_ONCE**2 // n)
    for start in range(0, n, rows):
        some, others = neurons[start : start + rows], neurons[start:]
        i, j = torch.triu_indices(len(some), len(others), offset=1, device=W.device)
        squared = (2 - 2 * some @ others.mT)[i, j]
        near = bool((squared < _NEAR).any())
        yield _distances(some, others)[i, j] if near else squared.sqrt()


def _directions(W: Tensor) -> Tensor:
    """Return the columns with length 1, as rows (..., n, d), in float64."""
    neurons = W.double().mT
    length = torch.linalg.vector_norm(neurons, dim=-1, keepdim=True)
    return neurons / length


def _distances(some: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")


def _energy(distance: Tensor, s: float) -> Tensor:
    """Return E_s from the distances of the pairs i < j (..., pairs); each pair counts twice."""
    terms = distance.pow(-s) if s > 0 else -distance.log()
    return 2 * terms.sum(-1)


def _excess(energy: float, mean: float, std: float) -> float:
    return (energy - mean) / std if 0 < std < math.inf else math.nan


def _log_moment(d: int, s: float) -> float:
    """Return log m(s), see `random_energy`."""
    from scipy.special import betaln

    a = (d - 1) / 2
    return float(betaln(a - s / 2, a) - betaln(a, a)) - s * math.log(2)


def _check_exponent(s: float) -> None:
    if s < 0:
        raise ValueError(f"hyperspherical energy is defined for s >= 0, got s = {s}")
