"""Phonons of fcc copper and aluminium at X and L with GPAW (PBE): the reference of copper, and a check on aluminium.

    python benchmarks/dft_phonons.py                 # needs the extra `dft`

At these points a cell of two atoms holds the wave: atom 0, moved by u, feels F, and all others feel it through their
images, so that m omega^2 = -2 F / u. The points are exact, as in the 2 x 2 x 2 cells of `m3pot bench phonon`. Rows are
written as they come; started again with the same settings, the script goes on behind the last.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk, make_supercell
from workers import RESULTS, versions, write

from m3pot.benchmark.solids import elastic_pbe

LENGTHS = {element: elastic_pbe()[element].reference["a"] for element in ("Cu", "Al")}  # A
# Cells of two atoms with angles near 90 degrees, in primitive vectors, and the directions that are moved.
POINTS = {
    "X": ([[1, -1, 0], [0, 0, 1], [1, 1, -1]], {"longitudinal": [0, 0, 1], "transverse": [1, 0, 0]}),
    "L": ([[1, -1, 0], [0, 1, -1], [1, 1, 0]], {"longitudinal": [1, 1, 1], "transverse": [1, -1, 0]}),
}
TERAHERTZ = np.sqrt(units._e / units._amu) / (1e-10 * 2e12 * np.pi)  # of sqrt(eV / A^2 / amu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ecut", type=float, default=600.0, help="eV")
    parser.add_argument("--density", type=float, default=7.0, help="k points for each 1/A of a reciprocal vector")
    parser.add_argument("--move", type=float, default=0.01, help="A")
    parser.add_argument("--output", type=Path, default=RESULTS / "dft_phonons.json")
    options = parser.parse_args()

    from m3pot.data.calculators import gpaw

    settings = {"xc": "PBE", "ecut_eV": options.ecut, "density": options.density, "move_A": options.move}
    settings |= {"lengths_A": LENGTHS, "versions": versions("gpaw")}
    before = json.loads(options.output.read_text()) if options.output.exists() else {}
    rows = before["rows"] if before.get("settings") == settings else []
    done = {(row["element"], row["point"], row["branch"]) for row in rows}
    for element in LENGTHS:
        for point, (matrix, directions) in POINTS.items():
            for branch, direction in directions.items():
                if (element, point, branch) in done:
                    continue
                unit = np.array(direction) / np.linalg.norm(direction)
                moved = make_supercell(bulk(element, "fcc", a=LENGTHS[element]), matrix)
                moved.positions[0] += options.move * unit
                moved.calc = gpaw(ecut=options.ecut, density=options.density, convergence={"forces": 1e-4})
                force = float(moved.get_forces()[0] @ unit)
                frequency = float(np.sqrt(-2 * force / options.move / moved.get_masses()[0]) * TERAHERTZ)
                rows.append({"element": element, "point": point, "branch": branch, "THz": frequency})
                print(rows[-1], flush=True)
                write(options.output, {"settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
