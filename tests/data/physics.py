"""Labelled frames of a real potential (effective medium theory of ASE), to break in known ways."""

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from m3pot.data.frames import Frames, make

OFFSET = {"Cu": -3.7, "Ni": -5.5, "Al": -3.4, "Au": -3.2, "Pt": -6.1, "Ag": -2.7}  # eV, as total energies of DFT


def rattled(
    symbols: list[str],
    size: int,
    rng: np.random.Generator,
    amount: float = 0.04,
    strain: float = 0.01,
    scale: float = 1,
) -> Atoms:
    """A cubic alloy of 4 * size atoms, displaced, strained and scaled."""
    atoms = bulk(symbols[0], cubic=True).repeat((size, 1, 1))
    atoms.symbols[:] = [symbols[k % len(symbols)] for k in range(len(atoms))]
    shear = strain * rng.normal(size=(3, 3))
    atoms.set_cell(scale * atoms.cell @ (np.eye(3) + shear + shear.T), scale_atoms=True)
    atoms.positions += amount * rng.normal(size=(len(atoms), 3))
    return atoms


def labelled(structures: list[Atoms]) -> Frames:
    """Frames with energies, forces and stresses that belong together."""
    energy, forces, stress = [], [], []
    for atoms in structures:
        atoms.calc = EMT()
        energy.append(atoms.get_potential_energy() + sum(OFFSET[symbol] for symbol in atoms.symbols))
        forces.append(atoms.get_forces())
        stress.append(atoms.get_stress(voigt=False))
    return make(
        [len(a) for a in structures],
        np.concatenate([a.numbers for a in structures]),
        np.concatenate([a.positions for a in structures]),
        np.array([a.cell.array for a in structures]),
        pbc=np.array([a.pbc for a in structures]),
        energy=energy,
        forces=np.concatenate(forces),
        stress=np.array(stress),
    )
