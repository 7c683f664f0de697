"""Perturbed crystals relaxed in one batch, one by one, and by ASE's FIRE with the same potential, in float64.

    python benchmarks/relax_equality.py                      # 50 crystals of the data set "pool", shipped model

Shows that neighbours in a batch change nothing, and at which energy and after how many force calls each method ends.
Where two methods end more than 1 meV/atom apart, both ends are relaxed further by the same method to a tenth of the
limits: what still differs then is another minimum, not an unfinished relaxation.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from nve import pool
from relax import batched, compare, force_calls, one_by_one
from workers import RESULTS, write

SAME = 1.0  # meV/atom: what two relaxations that stop by forces may differ by
FURTHER = "batch_minus_ase_at_a_tenth_of_the_limits_meV_per_atom"


def perturbed_crystals(count: int, seed: int, max_atoms: int, rattle: float, strain: float) -> list:
    """Crystals of the pool with Gaussian displacements of ``rattle`` A and symmetric strains of ``strain``."""
    crystals = [atoms for atoms in pool().values() if len(atoms) <= max_atoms]
    rng = np.random.default_rng(seed)
    chosen = []
    for k in sorted(rng.choice(len(crystals), count, replace=False)):
        atoms = crystals[k]
        epsilon = rng.normal(0, strain, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (epsilon + epsilon.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, rattle, atoms.positions.shape)
        chosen.append(atoms)
    return chosen


def largest_differences(batch: list, alone: list) -> dict:
    pairs = list(zip(batch, alone, strict=True))
    return {
        "energy_eV_per_atom": max(abs(a.energy - b.energy) / len(a.atoms) for a, b in pairs),
        "positions_A": max(float(np.abs(a.atoms.positions - b.atoms.positions).max()) for a, b in pairs),
        "cell_A": max(float(np.abs(a.atoms.cell.array - b.atoms.cell.array).max()) for a, b in pairs),
        "steps": max(abs(a.steps - b.steps) for a, b in pairs),
        "status": sum(a.status != b.status for a, b in pairs),
    }


def gap(ours, theirs) -> float:
    """Energy of ours above theirs, meV/atom."""
    return 1000 * (ours.energy - theirs.energy) / len(ours.atoms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-atoms", type=int, default=12)
    parser.add_argument("--rattle", type=float, default=0.1, help="A, standard deviation of each coordinate")
    parser.add_argument("--strain", type=float, default=0.03, help="standard deviation of each component")
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--model", default=None)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "relax_equality.json")
    arguments = parser.parse_args()

    from m3pot.io.registry import load
    from m3pot.relaxation import Options, relax
    from m3pot.units import GPA

    report = {"settings": {key: value for key, value in vars(arguments).items() if key not in ("model", "output")}}
    potential = load(arguments.model)
    crystals = perturbed_crystals(
        arguments.count, arguments.seed, arguments.max_atoms, arguments.rattle, arguments.strain
    )
    limits = {"fmax": arguments.fmax, "smax": 0.1 * GPA, "dtype": "float64"}
    options = limits | {"steps": arguments.steps}

    results = {}
    for name, run in {
        "batch": lambda: batched(crystals, potential, Options(**options)),
        "alone": lambda: [relax(atoms, potential, **options)[0] for atoms in crystals],
        "batch_fire": lambda: batched(crystals, potential, Options(minimizer="fire", **options)),
        "ase_fire": lambda: one_by_one(crystals, potential, Options(minimizer="fire", **options)),
    }.items():
        results[name] = run()
        statuses = dict(Counter(result.status for result in results[name]))
        report[name] = {"force_calls": force_calls(results[name]), "status": statuses}
        print(name, json.dumps(report[name]), flush=True)

    report["largest_differences_batch_alone"] = largest_differences(results["batch"], results["alone"])
    tight = {"fmax": limits["fmax"] / 10, "smax": limits["smax"] / 10, "dtype": "float64", "steps": 1000}
    rows = []
    for ours, alone, fire, theirs in zip(*results.values(), strict=True):
        row = {
            "formula": ours.atoms.get_chemical_formula(),
            "atoms": len(ours.atoms),
            "status": ours.status,
            "ase_status": theirs.status,
            "force_calls": ours.steps + 1,
            "ase_force_calls": theirs.steps + 1,
            "energy_eV_per_atom": ours.energy / len(ours.atoms),
            "alone_minus_batch_eV_per_atom": (alone.energy - ours.energy) / len(ours.atoms),
            "batch_minus_ase_meV_per_atom": gap(ours, theirs),
            "batch_fire_minus_ase_meV_per_atom": gap(fire, theirs),
            "batch_fire_force_calls": fire.steps + 1,
        }
        if abs(gap(ours, theirs)) > SAME:
            ends = relax([ours.atoms, theirs.atoms], potential, **tight)
            row[FURTHER] = gap(*ends)
        rows.append({key: round(value, 7) if isinstance(value, float) else value for key, value in row.items()})
    report["batch_against_ase_fire"] = compare(results["batch"], results["ase_fire"], SAME)
    report["batch_fire_against_ase_fire"] = compare(results["batch_fire"], results["ase_fire"], SAME)
    differing = [row[FURTHER] for row in rows if FURTHER in row]
    report["batch_against_ase_fire"]["other_minimum"] = {
        "lower": sum(value < -SAME for value in differing),
        "higher": sum(value > SAME for value in differing),
    }
    report["structures"] = rows
    print(json.dumps({key: value for key, value in report.items() if "differences" in key or "against" in key}))
    write(arguments.output, report)


if __name__ == "__main__":
    main()
