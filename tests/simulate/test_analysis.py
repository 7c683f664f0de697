"""Analysis against signals whose answers are known."""

import numpy as np
import pytest
from ase.build import bulk

from m3pot.simulate import analysis
from m3pot.simulate.analysis import Trajectory


def trajectory(positions, *, spacing=1.0, velocities=None, numbers=None, cell=None) -> Trajectory:
    frames, n = positions.shape[:2]
    velocities = np.zeros_like(positions) if velocities is None else velocities
    numbers = np.full(n, 29) if numbers is None else numbers
    cells = np.repeat((10.0 * np.eye(3) if cell is None else cell)[None], frames, 0)
    masses = np.ones(n)
    return Trajectory(spacing * np.arange(frames), positions, velocities, cells, numbers, masses, np.ones(3, bool))


def test_error_of_correlated_series():
    rng = np.random.default_rng(0)
    phi, count, runs = 0.9, 4000, []
    for _ in range(40):
        series = np.zeros(count)
        noise = rng.normal(size=count)
        for k in range(1, count):
            series[k] = phi * series[k - 1] + noise[k]
        runs.append(analysis.mean_error(3 + series))
    means, errors, times = np.array(runs).T
    assert times.mean() == pytest.approx((1 + phi) / (1 - phi), rel=0.15)
    assert means.std() == pytest.approx(errors.mean(), rel=0.3)
    assert analysis.mean_error(np.full(10, 2.0)) == (2.0, 0.0, 1.0)


def test_rdf_of_a_crystal():
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    still = trajectory(atoms.positions[None], numbers=atoms.numbers, cell=atoms.cell.array)
    r, table = analysis.rdf(still, 5.0, 250)
    assert set(table) == {(11, 11), (11, 17), (17, 17)}
    shells = 4 * np.pi * r**2 * (r[1] - r[0])
    near = (r > 2.7) & (r < 2.9)
    density = 4 / atoms.get_volume()
    assert (table[11, 17] * shells * density)[near].sum() == pytest.approx(6, rel=1e-3)
    assert table[11, 11][r < 3.9].max() == 0


def test_rdf_of_a_gas_is_one():
    rng = np.random.default_rng(1)
    _, table = analysis.rdf(trajectory(rng.uniform(0, 10, (20, 200, 3))), 4.5, 9)
    np.testing.assert_allclose(table[29, 29][3:], 1, atol=0.05)


def test_msd_equals_the_definition():
    walk = np.cumsum(np.random.default_rng(2).normal(size=(30, 4, 3)), axis=0)
    run = trajectory(walk, spacing=2.0)
    lags, squares = analysis.msd(run)
    x = analysis.displacements(run)
    direct = [np.mean(np.sum((x[k:] - x[: 30 - k]) ** 2, -1)) for k in range(30)]
    np.testing.assert_allclose(squares, direct, atol=1e-9)
    assert lags[1] == 2.0


def test_diffusion_of_a_random_walk():
    rng = np.random.default_rng(3)
    numbers = np.repeat([3, 8], [200, 200])
    steps = rng.normal(size=(800, 400, 3)) * np.where(numbers == 3, 0.2, 0.0)[None, :, None]
    walk = trajectory(np.cumsum(steps, axis=0), spacing=5.0, numbers=numbers)
    measured = analysis.diffusion(walk, 3)
    assert measured.coefficient == pytest.approx(0.2**2 / (2 * 5.0), rel=0.1)
    assert measured.exponent == pytest.approx(1, abs=0.1)
    assert 0 < measured.error < 0.1 * measured.coefficient
    with pytest.raises(ValueError, match="run longer"):
        analysis.diffusion(trajectory(np.zeros((20, 2, 3))))


def test_vdos_finds_the_frequency():
    time = 2.0 * np.arange(2000)
    velocities = np.cos(2 * np.pi * 12.5e-3 * time)[:, None, None] * np.ones((1, 3, 3))
    frequencies, density = analysis.vdos(trajectory(np.zeros((2000, 3, 3)), spacing=2.0, velocities=velocities))
    assert frequencies[density.argmax()] == pytest.approx(12.5, abs=0.1)
    assert np.trapezoid(density, frequencies) == pytest.approx(9, rel=0.01)


def test_broken_bonds():
    positions = np.array([[[0, 0, 0], [0, 0, 1.1], [4, 0, 0], [4, 0, 1.1]]] * 3, float)
    positions[2, 3, 2] = 2.5
    molecule = trajectory(positions, numbers=np.array([7, 7, 7, 7]))
    assert analysis.broken_bonds(molecule) == [(2, 3)]


def test_after_cuts():
    run = analysis.after(trajectory(np.zeros((10, 2, 3)), spacing=3.0), 12.0)
    assert run.time.tolist() == [12, 15, 18, 21, 24, 27]
    assert len(run.positions) == len(run.velocities) == len(run.cell) == 6
