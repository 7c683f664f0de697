"""Sampling by molecular dynamics with any potential: the kind ``md`` of a recipe (:mod:`m3pot.data.recipe`)."""

import functools
from typing import Any

import numpy as np

from m3pot.data.crystal import Crystal, Rejected, from_atoms, to_atoms
from m3pot.data.recipe import Maker, Source
from m3pot.data.sample import Range, enlarge
from m3pot.simulate import md
from m3pot.simulate.output import atoms_of
from m3pot.structure import StructureError
from m3pot.units import GPA


def dynamics(
    potential: Any,
    *,
    temperature: Range = (300.0, 3000.0),
    pressure: Range = (0.0, 50.0),
    steps: int = 2000,
    every: int = 500,
    timestep: float = 1.0,
    dtype: str = "float32",
) -> Maker:
    """Snapshots of runs, one parent after the other, each at its own temperature and pressure.

    A run starts from a parent (cells of up to 4 atoms repeated), at constant pressure if it is periodic in three
    directions, and gives ``steps // every`` snapshots. What a run gives depends on the source, its seed and the
    number of the run only.

    Args:
        potential: a Potential, an ensemble, a name or a file; None is the shipped default.
        temperature: K; drawn from this range with its logarithm evenly distributed.
        pressure: GPa; drawn evenly.
        steps: length of a run.
        every: steps between snapshots.
        timestep: fs.
        dtype: float32 or float64.
    """
    count = steps // max(every, 1)
    if every < 1 or count < 1:
        raise ValueError(f"Expected 1 <= every <= steps, got every = {every} and steps = {steps}; make the run longer.")
    if not 0 < temperature[0] <= temperature[1]:
        raise ValueError(f"Expected a range of temperatures above 0 K, got {temperature}; give the lower one first.")

    @functools.lru_cache(maxsize=1)
    def run(source: Source, number: int) -> tuple[int, list[Crystal], str]:
        if not len(source.changed):
            raise Rejected("no parent")
        parent = int(source.changed[number % len(source.changed)])
        rng = np.random.default_rng([source.seed, 3, number])
        atoms = to_atoms(enlarge(source.crystals[parent], rng))
        kelvin = float(np.exp(rng.uniform(*np.log(temperature))))
        gigapascal = float(rng.uniform(*pressure))
        try:
            simulation = md(
                atoms,
                potential,
                ensemble="npt" if atoms.pbc.all() else "nvt",
                temperature=kelvin,
                pressure=gigapascal * GPA if atoms.pbc.all() else 0.0,
                timestep=timestep,
                steps=steps,
                every=every,
                seed=int(rng.integers(2**31)),
                dtype=dtype,
            )
        except StructureError as error:
            raise Rejected(str(error)) from error
        if simulation.status == "interrupted":
            raise KeyboardInterrupt
        frames = [frame for frame in simulation.frames if frame.step and frame.step % every == 0]
        return parent, [from_atoms(atoms_of(frame, atoms)) for frame in frames], simulation.status

    def make(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
        parent, snapshots, status = run(source, k // count)
        if k % count >= len(snapshots):
            raise Rejected(status)
        return parent, snapshots[k % count]

    return make
