"""Energies, their excess over random neurons, cosines and angles of a layer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta
from torch import Tensor

from opt_runner import geometry
from opt_runner.geometry import (
    ANGLE_BINS,
    EXPONENTS,
    LayerGeometry,
    hyperspherical_energy,
    layer_geometry,
    random_energy,
    random_half_space_energy,
)


def gaussian(d: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(d, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measure(W: Tensor) -> LayerGeometry:
    return layer_geometry(W, ANGLE_BINS)


def half_space_energy(W: Tensor) -> float:
    """From E_0 of [W, -W]: each pair of lines is four pairs there; w_i and -w_i are 2 apart."""
    constant_pairs = -2 * W.shape[1] * math.log(2)
    return float(hyperspherical_energy(torch.cat([W, -W], dim=1), 0) - constant_pairs) / 2


def test_two_orthogonal_neurons() -> None:
    seen = layer_geometry(torch.eye(2), 5)
    assert seen.energy == pytest.approx({0: -math.log(2), 1: math.sqrt(2), 2: 1})
    assert seen.largest_cosine == pytest.approx(0, abs=1e-15)
    assert seen.angles == [0, 0, 1, 0, 0]


def test_three_neurons_of_a_triangle() -> None:
    """120 degrees apart, sqrt(3) from each other: six ordered pairs."""
    turn = torch.tensor([0, 2 * math.pi / 3, 4 * math.pi / 3], dtype=torch.float64)
    seen = layer_geometry(torch.stack([turn.cos(), turn.sin()]), 5)
    assert seen.energy == pytest.approx({0: -3 * math.log(3), 1: 6 / math.sqrt(3), 2: 2})
    assert seen.largest_cosine == pytest.approx(0.5)
    assert seen.angles == [0, 0, 0, 3, 0]


def test_angles_go_from_equal_to_opposite() -> None:
    W = torch.tensor([[1.0, 1, -1, 0], [0, 0, 0, 1]])
    assert layer_geometry(W, 3).angles == [1, 3, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(2, 12), st.integers(0, 2**31))
def test_neither_turning_nor_scaling_neurons_changes_anything(d: int, n: int, seed: int) -> None:
    W = gaussian(d, n, seed)
    Q, _ = torch.linalg.qr(gaussian(d, d, seed + 1))
    length = gaussian(1, n, seed + 2).exp()
    before, after = measure(W), measure(Q @ W * length)
    assert sum(before.angles) == sum(after.angles) == n * (n - 1) // 2
    for name in ("energy", "energy_excess", "half_space_excess", "largest_cosine"):
        expected = pytest.approx(getattr(before, name), rel=1e-6, abs=1e-6, nan_ok=True)
        assert getattr(after, name) == expected


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("n", [33, 64, 70])
def test_many_neurons_are_looked_at_in_parts(
    n: int, crowded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    W = gaussian(40, n)
    if crowded:
        W[:, 1], W[:, n - 1] = W[:, 0] + 1e-9 * W[:, 2], -W[:, 3]
    whole = measure(W)
    monkeypatch.setattr(geometry, "_MOST_AT_ONCE", 32)
    parts = measure(W)
    assert parts.energy == pytest.approx(whole.energy, rel=1e-12)
    assert parts.largest_cosine == pytest.approx(whole.largest_cosine, rel=1e-12)
    assert parts.angles == whole.angles
    if not crowded:  # of opposite neurons rounding decides
        assert parts.half_space_excess == pytest.approx(whole.half_space_excess, rel=1e-9)
    W[:, 5] = 0
    assert math.isnan(measure(W).energy[1])
    assert math.isnan(measure(W).largest_cosine)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(2, 12), st.integers(0, 2**31))
def test_the_half_space_does_not_see_signs(d: int, n: int, seed: int) -> None:
    W = gaussian(d, n, seed)
    sign = gaussian(1, n, seed + 1).sign()
    before, after = measure(W), measure(W * sign)
    assert after.half_space_excess == pytest.approx(before.half_space_excess, rel=1e-6, abs=1e-6)
    assert after.largest_cosine == pytest.approx(before.largest_cosine)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(2, 12), st.integers(0, 2**31))
def test_excesses_are_of_the_energies(d: int, n: int, seed: int) -> None:
    W = gaussian(d, n, seed)
    seen = measure(W)
    mean, std = random_half_space_energy(d, n)
    half_space = (half_space_energy(W) - mean) / std
    assert seen.half_space_excess == pytest.approx(half_space, rel=1e-6, abs=1e-6)
    for s in EXPONENTS:
        assert seen.energy[s] == float(hyperspherical_energy(W, s)), "the same to the bit"
        mean, std = random_energy(d, n, s)
        expected = (seen.energy[s] - mean) / std if math.isfinite(std) else math.nan
        assert seen.energy_excess[s] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("d", "n"), [(7, 12), (9, 32), (27, 16), (27, 64), (64, 16), (64, 64), (576, 16), (1024, 64)]
)
def test_the_excess_of_random_neurons_has_mean_0_and_spread_1(d: int, n: int) -> None:
    draws = 400
    seen = [measure(gaussian(d, n, seed)) for seed in range(draws)]
    excesses = np.array([[*g.energy_excess.values(), g.half_space_excess] for g in seen])
    assert excesses.mean(0) == pytest.approx(np.zeros(4), abs=4 / math.sqrt(draws))
    assert excesses.std(0) == pytest.approx(np.ones(4), abs=0.15)
    assert np.abs(excesses).max() < 9, "the tail is long in few dimensions"


@pytest.mark.parametrize("d", [2, 3, 4, 5, 6, 9, 27, 64, 576, 1024])
def test_closed_forms_equal_the_integrals_over_one_pair(d: int) -> None:
    """Over B = ||u - v||^2 / 4, of the beta distribution. Both orders of the pair are counted."""
    of_pair = beta((d - 1) / 2, (d - 1) / 2)
    width = 20 * of_pair.std()  # of a narrow peak, which the integration would miss

    def integral(term) -> float:
        low, high = max(0, 0.5 - width), min(1, 0.5 + width)
        half = [(low, 0.5), (0.5, high)]
        return sum(quad(lambda b: of_pair.pdf(b) * term(b), *ends, limit=200)[0] for ends in half)

    def check(moments: tuple[float, float], term) -> None:
        mean = integral(term)
        variance = integral(lambda b: (term(b) - mean) ** 2)
        assert moments == pytest.approx((2 * mean, 2 * math.sqrt(variance)), rel=1e-6, abs=1e-6)

    check(random_energy(d, 2, 0), lambda b: -math.log(4 * b) / 2)
    check(random_half_space_energy(d, 2), lambda b: -math.log(16 * b * (1 - b)) / 2)
    for s in (1, 2):
        if d > 2 * s + 1:
            check(random_energy(d, 2, s), lambda b, s=s: (4 * b) ** (-s / 2))


def test_known_means_of_a_pair() -> None:
    assert random_energy(2, 2, 0) == pytest.approx((0, 2 * math.pi / math.sqrt(12)))
    assert random_energy(3, 2, 0) == pytest.approx((1 - 2 * math.log(2), 1))
    assert random_energy(3, 2, 1)[0] == pytest.approx(2), "1 / distance on the sphere: Newton"
    for d in (4, 27, 576, 25088):
        assert random_energy(d, 2, 2)[0] == pytest.approx((d - 2) / (d - 3))


@pytest.mark.parametrize("s", EXPONENTS)
def test_near_neurons_make_moments_infinite_in_few_dimensions(s: int) -> None:
    moments = {d: random_energy(d, 3, s) for d in range(1, 9)}
    assert {d for d, (mean, _) in moments.items() if mean < math.inf} == set(range(s + 2, 9))
    assert {d for d, (_, std) in moments.items() if std < math.inf} == set(range(2 * s + 2, 9))
    defined = {d for d in moments if not math.isnan(measure(gaussian(d, 3)).energy_excess[s])}
    assert defined == set(range(2 * s + 2, 9))


def test_neurons_about_one_direction_have_an_excess() -> None:
    seen = measure(gaussian(288, 32) + 0.3 * gaussian(288, 1, seed=1))
    assert all(excess > 20 for excess in seen.energy_excess.values())
    assert seen.half_space_excess > 20


def test_the_half_space_shows_correlation_of_both_signs() -> None:
    """Half of the neurons lean on the other half by +0.5 or -0.5: the energy's terms cancel."""
    W = gaussian(288, 32)
    W[:, 16:] += W[:, :16] * torch.tensor([0.577, -0.577], dtype=W.dtype).repeat(8)
    seen = measure(W)
    assert max(map(abs, seen.energy_excess.values())) < 5
    assert seen.half_space_excess > 40


def test_a_single_neuron_has_no_pairs() -> None:
    seen = measure(gaussian(9, 1))
    assert seen.energy == {0: 0, 1: 0, 2: 0}
    undefined = [*seen.energy_excess.values(), seen.half_space_excess, seen.largest_cosine]
    assert all(map(math.isnan, undefined))
    assert seen.angles == [0] * ANGLE_BINS


def test_a_zero_column_has_no_direction() -> None:
    W = gaussian(9, 4)
    W[:, 2] = 0
    seen = measure(W)
    values = [*seen.energy.values(), *seen.energy_excess.values()]
    values += [seen.half_space_excess, seen.largest_cosine]
    assert all(map(math.isnan, values))
    assert sum(seen.angles) == 3, "the pairs of the other three"


def test_two_equal_neurons_have_infinite_energies() -> None:
    W = gaussian(9, 4)
    W[:, 2] = W[:, 0]
    seen = measure(W)
    values = [*seen.energy.values(), *seen.energy_excess.values(), seen.half_space_excess]
    assert values == [math.inf] * 7
    assert seen.largest_cosine == 1
    assert seen.angles[0] >= 1


def test_two_opposite_neurons_are_one_line() -> None:
    W = gaussian(9, 4)
    W[:, 2] = -W[:, 0]
    seen = measure(W)
    assert all(map(math.isfinite, seen.energy.values()))
    assert all(abs(excess) < 5 for excess in seen.energy_excess.values())
    assert seen.half_space_excess > 5, "infinite, or as large as rounding lets it be"
    assert seen.largest_cosine == pytest.approx(1)
    assert seen.angles[-1] >= 1


def test_in_one_dimension_neurons_are_equal_or_opposite() -> None:
    seen = measure(torch.tensor([[2.0, -5.0]]))
    assert seen.energy == pytest.approx({0: -2 * math.log(2), 1: 1, 2: 0.5})
    assert all(map(math.isnan, [*seen.energy_excess.values(), seen.half_space_excess]))
    assert measure(torch.tensor([[2.0, 5.0]])).energy == dict.fromkeys(EXPONENTS, math.inf)


def test_more_neurons_than_dimensions() -> None:
    seen = measure(gaussian(6, 200))
    assert all(abs(excess) < 5 for excess in seen.energy_excess.values())
    assert sum(seen.angles) == 200 * 199 // 2


def test_a_batch_equals_its_layers_one_by_one() -> None:
    W = torch.stack([gaussian(9, 5, seed) for seed in range(4)])
    batch = hyperspherical_energy(W, 2)
    assert batch.tolist() == [float(hyperspherical_energy(one, 2)) for one in W]


def test_a_negative_exponent_is_refused() -> None:
    with pytest.raises(ValueError, match="s >= 0, got s = -1"):
        hyperspherical_energy(torch.eye(2), -1)
    with pytest.raises(ValueError, match="s >= 0, got s = -1"):
        random_energy(9, 3, -1)
