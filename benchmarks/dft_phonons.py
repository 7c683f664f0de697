"""Phonons of fcc aluminium and copper at X and L by GPAW, run here: the reference for copper, and a check on aluminium.

    python benchmarks/dft_phonons.py                 # needs the extra `dft`

At these points a cell of two atoms holds the wave: atom 0, moved by u, feels F, and all others feel it through their
images, so that m omega^2 = -2 F / u. The points are exact, as in the 2 x 2 x 2 cells of `m3pot bench phonon`.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from workers import RESULTS, versions, write

LENGTHS = {"Al": 4.040, "Cu": 3.629}  # A, as in m3pot/benchmark/solids.py
# primitive vectors a, b, c of fcc -> cell of two atoms, and the directions that are moved
POINTS = {
    "X": (np.array([[1, -1, 0], [0, 0, 1], [1, 1, -1]]), {"longitudinal": [0, 0, 1], "transverse": [1, 0, 0]}),
    "L": (np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), {"longitudinal": [1, 1, 1], "transverse": [1, -1, 0]}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ecut", type=float, default=600.0, help="eV")
    parser.add_argument("--density", type=float, default=7.0, help="k points for each 1/A of a reciprocal vector")
    parser.add_argument("--move", type=float, default=0.01, help="A")
    parser.add_argument("--output", type=Path, default=RESULTS / "dft_phonons.json")
    options = parser.parse_args()

    from m3pot.data.calculators import gpaw

    rows = []
    for element, length in LENGTHS.items():
        for point, (matrix, directions) in POINTS.items():
            cell = two_atoms(element, length, matrix)
            for branch, direction in directions.items():
                unit = np.array(direction) / np.linalg.norm(direction)
                moved = cell.copy()
                moved.positions[0] += options.move * unit
                moved.calc = gpaw(ecut=options.ecut, density=options.density, convergence={"forces": 1e-4})
                force = float(moved.get_forces()[0] @ unit)
                stiffness = -2 * force / options.move / moved.get_masses()[0]
                frequency = np.sqrt(stiffness) * units._e**0.5 / (1e-10 * units._amu**0.5) / (2e12 * np.pi)
                rows.append({"element": element, "point": point, "branch": branch, "THz": float(frequency)})
                print(rows[-1], flush=True)
    settings = {"xc": "PBE", "ecut_eV": options.ecut, "density": options.density, "move_A": options.move}
    write(options.output, {"settings": settings | {"lengths_A": LENGTHS, "versions": versions("gpaw")}, "rows": rows})


def two_atoms(element: str, length: float, matrix: np.ndarray) -> Atoms:
    """The cell whose vectors are ``matrix`` times those of the primitive cell, with its two atoms."""
    vectors = bulk(element, "fcc", a=length).cell.array
    cell = matrix @ vectors
    images = np.array([[i, j, k] for i in range(-2, 3) for j in range(-2, 3) for k in range(-2, 3)]) @ vectors
    inside = np.unique(np.round(np.linalg.solve(cell.T, images.T).T % 1 % 1, 6) % 1, axis=0)
    return Atoms([element] * len(inside), cell=cell, scaled_positions=inside, pbc=True)


if __name__ == "__main__":
    main()
