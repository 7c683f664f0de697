import numpy as np
import pytest
from ase import Atoms

from m3pot.data import frames as F


def random_atoms(rng: np.random.Generator) -> list[Atoms]:
    """Crystals, slabs, molecules and an isolated atom, with positions outside of the cell and left-handed cells."""
    result = [Atoms("He", positions=[[0, 0, 0]])]
    for pbc in [(True, True, True)] * 20 + [(True, True, False)] * 4 + [(False, False, False)] * 4:
        n = int(rng.integers(1, 9))
        cell = np.eye(3) * rng.uniform(3, 6) + rng.uniform(-0.8, 0.8, (3, 3))
        if not any(pbc):
            cell = np.zeros((3, 3))
        # Sites of a grid, displaced: random, but never on top of each other.
        grid = np.stack(np.meshgrid(*[range(2)] * 3), axis=-1).reshape(-1, 3)[rng.permutation(8)[:n]] / 2
        box = cell if any(pbc) else 5 * np.eye(3)
        positions = (grid + rng.integers(-2, 3, (n, 3)) * np.array(pbc)) @ box + rng.uniform(-0.3, 0.3, (n, 3))
        result.append(Atoms(rng.integers(1, 95, n), positions, cell=cell, pbc=pbc))
    return result


def labelled(structures: list[Atoms], rng: np.random.Generator) -> F.Frames:
    """Frames with random labels, some of them missing."""
    stress = rng.normal(size=(len(structures), 3, 3))
    energy = rng.normal(size=len(structures))
    energy[3] = np.nan
    n = sum(map(len, structures))
    return F.make(
        [len(a) for a in structures],
        np.concatenate([a.numbers for a in structures]),
        np.concatenate([a.positions for a in structures]),
        np.array([a.cell.array for a in structures]),
        pbc=np.array([a.pbc for a in structures]),
        energy=energy,
        forces=rng.normal(size=(n, 3)),
        stress=stress + stress.transpose(0, 2, 1),
        group=[a.get_chemical_formula() for a in structures],
        name=[f"frame {k}" for k in range(len(structures))],
    )


@pytest.fixture(scope="session")
def structures():
    return random_atoms(np.random.default_rng(5))


@pytest.fixture(scope="session")
def frames(structures):
    return labelled(structures, np.random.default_rng(6))
