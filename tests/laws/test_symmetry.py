"""Space knows no origin, no orientation, no order of atoms and no choice of cell."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from m3pot.graph import Properties
from tests.helpers import (
    TOLERANCE,
    deviation,
    evaluate,
    evaluate_graphs,
    graph_of,
    random_potential,
    reference,
    structures,
)


def check(results, expected, dtype):
    for structure, result, value in zip(structures(), results, expected, strict=True):
        assert deviation(result, value) < TOLERANCE[dtype], structure


def test_translation(name, dtype):
    table = [*structures().values()]
    for k, atoms in enumerate(table):
        atoms.translate(np.random.default_rng(k).normal(0, 3, 3))
    check(evaluate(name, dtype, table), reference(name, dtype), dtype)


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
def test_rotation_and_reflection(name, dtype, sign):
    turn = ortho_group.rvs(3, random_state=7)
    turn[0] *= sign * np.linalg.det(turn)
    table = [*structures().values()]
    for atoms in table:
        atoms.positions = atoms.positions @ turn.T
        atoms.cell = atoms.cell.array @ turn.T
    expected = [p._replace(forces=p.forces @ turn.T, stress=turn @ p.stress @ turn.T) for p in reference(name, dtype)]
    check(evaluate(name, dtype, table), expected, dtype)


def test_permutation_of_atoms(name, dtype):
    table = [*structures().values()]
    orders = [np.random.default_rng(k).permutation(len(atoms)) for k, atoms in enumerate(table)]
    results = evaluate(name, dtype, [atoms[order] for atoms, order in zip(table, orders, strict=True)])
    expected = [
        p._replace(forces=p.forces[order], energies=p.energies[order])
        for p, order in zip(reference(name, dtype), orders, strict=True)
    ]
    check(results, expected, dtype)


def test_permutation_of_edges(name, dtype):
    """Within each centre: centres must ascend."""
    rng, shuffled = np.random.default_rng(0), []
    for graph in map(graph_of, structures().values()):
        order = np.lexsort((rng.random(len(graph.receivers)), graph.receivers))
        assert len(order) < 3 or (order != np.arange(len(order))).any()
        shuffled.append(graph._replace(senders=graph.senders[order], shifts=graph.shifts[order]))
    check(evaluate_graphs(random_potential(name, dtype), shuffled, dtype), reference(name, dtype), dtype)


def test_wrapping(name, dtype):
    rng, table = np.random.default_rng(1), [*structures().values()]
    for atoms in table:
        hops = rng.integers(-3, 4, (len(atoms), 3)) * atoms.pbc
        atoms.positions += hops @ atoms.cell.array
    check(evaluate(name, dtype, table), reference(name, dtype), dtype)


def test_another_cell_of_the_same_lattice(name, dtype):
    """Adding one lattice vector to another changes the cell (more skewed), but not the crystal."""
    table = [*structures().values()]
    for atoms in table:
        if atoms.pbc[:2].all():
            atoms.cell[0] += 2 * atoms.cell[1]
    check(evaluate(name, dtype, table), reference(name, dtype), dtype)


def test_supercell(name, dtype):
    repeats = {
        "dense metal": (2, 1, 1),
        "skewed": (1, 2, 1),
        "left-handed": (1, 1, 2),
        "one atom": (1, 3, 1),
        "tiny skewed": (2, 1, 1),
        "slab": (2, 1, 1),
        "chain": (2, 1, 1),
    }
    table = structures()
    parts = dict(zip(table, reference(name, dtype), strict=True))
    results = evaluate(name, dtype, [table[key].repeat(times) for key, times in repeats.items()])
    for (key, times), result in zip(repeats.items(), results, strict=True):
        part, copies = parts[key], int(np.prod(times))
        expected = Properties(
            energy=copies * (part.energy - 0.7) + 0.7,  # the random potentials have an offset of 0.7 eV per structure
            forces=np.tile(part.forces, (copies, 1)),
            stress=part.stress,
            energies=np.tile(part.energies, copies),
        )
        assert deviation(result, expected) < TOLERANCE[dtype], key
