"""One bad structure ends alone, with its status and a reason; the good ones do not notice."""

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.core import Lattice, Structure

from m3pot.relaxation import STATUSES, engine, relax
from m3pot.relaxation.screening import part
from tests.relaxation.helpers import distorted, morse, problems

LIMITS = dict(fmax=1e-3, smax=1e-5, dtype="float64", max_edges=1024)


def bad() -> dict[str, tuple[Atoms | Structure, str, str]]:
    """Structure, expected status, and a word of the reason."""
    good = problems()["oxide"]
    table = {}

    def add(name, status, word, **changes):
        atoms = good.copy()
        for key, (where, value) in changes.items():
            getattr(atoms, key)[where] = value
        table[name] = atoms, status, word

    add("NaN position", "nan", "NaN", positions=(1, np.nan))
    add("NaN in the potential", "nan", "after 0 steps", numbers=(0, 36))
    add("duplicate", "clash", "duplicate", positions=(1, good.positions[0]))
    add("unknown element", "unsupported_element", "U", numbers=(0, 92))
    add("no volume", "failed", "volume", cell=(2, 0.0))
    table["flat"] = Atoms("Cu2", positions=[[0, 0, 0], [1, 0, 0]], cell=[2, 2, 0.15], pbc=True), "failed", "per atom"
    table["too large"] = bulk("Cu", cubic=True) * (6, 6, 8), "too_large", "1152 atoms"
    table["no atoms"] = Atoms(), "failed", "no atoms"
    mixed = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    table["disordered"] = mixed, "failed", "ordered"
    squeezed = bulk("Cu", a=1.4)
    table["squeezed"] = squeezed, "clash", "larger cell"
    return table


def test_every_bad_structure_gets_its_status_and_the_good_ones_their_results():
    cases = bad()
    good = [problems()["metal"], problems()["alloy"]]
    mixture = [good[0], *(structure for structure, _, _ in cases.values()), good[1]]
    results = relax(mixture, morse(), **LIMITS)
    for (name, (_, status, word)), result in zip(cases.items(), results[1:-1], strict=True):
        assert result.status == status, (name, result)
        assert word in result.reason, (name, result.reason)
        assert result.status in STATUSES
    alone = relax(good, morse(), **LIMITS)
    for mixed, reference in zip((results[0], results[-1]), alone, strict=True):
        assert mixed.status == "converged"
        assert mixed.energy == pytest.approx(reference.energy, abs=1e-9)
        np.testing.assert_allclose(mixed.atoms.positions, reference.atoms.positions, atol=1e-8)


def test_clashing_atoms_are_pushed_apart_and_reported():
    atoms = problems()["oxide"]
    bond = atoms.get_distance(0, 4, mic=True)
    atoms.set_distance(0, 4, 0.35 * bond, fix=0, mic=True)
    (result,) = relax(atoms, morse(), **LIMITS)
    assert result.status == "converged"
    assert "pushed apart" in result.reason
    (refused,) = relax(atoms, morse(), **LIMITS | dict(repair=False, steps=0))
    assert refused.status == "clash" or refused.fmax > 1
    repaired, note = part(atoms, np.ones((len(atoms), 3)))
    assert note
    assert part(repaired, np.ones((len(atoms), 3))) == (repaired, "")


def test_an_exploding_cell_is_stopped():
    gas = distorted(bulk("Cu", a=3.6), 1)
    (result,) = relax(gas, morse(), **LIMITS | dict(pressure=-2.0))
    assert result.status == "exploded"
    assert "volume" in result.reason


def test_running_out_of_steps_is_not_convergence():
    (result,) = relax(problems()["oxide"], morse(), **LIMITS | dict(steps=2))
    assert (result.status, result.steps, result.converged) == ("max_steps", 2, False)
    assert "fmax" in result.reason


def test_lack_of_memory_splits_the_batch_and_goes_on(monkeypatch):
    """Batches of more than two structures do not fit into this device."""
    expected = relax(problems().values(), morse(), **LIMITS)
    descend, refused = engine.descend, []

    def small(placed, minimizer, limits, radii, chunk, slots, edges):
        if (np.asarray(slots.status) > 0).sum() > 2:
            refused.append(1)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return descend(placed, minimizer, limits, radii, chunk, slots, edges)

    capacities = iter([engine.capacity_for(0, 0)] * 2)
    monkeypatch.setattr(engine, "descend", small)
    monkeypatch.setattr(engine, "capacity_for", lambda e, a: next(capacities, engine.Sizes(3, 48, 1024)))
    results = relax(problems().values(), morse(), **LIMITS)
    assert refused
    for result, reference in zip(results, expected, strict=True):
        assert result.status == reference.status == "converged"
        assert result.energy == pytest.approx(reference.energy, abs=1e-8)


def test_a_structure_that_never_fits_is_too_large(monkeypatch):
    def none(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(engine, "descend", none)
    results = relax([problems()["metal"], problems()["oxide"]], morse(), **LIMITS)
    assert [result.status for result in results] == ["too_large"] * 2
    assert "memory" in results[0].reason
