"""What the user asks for, checked, and turned into conditions and a first state."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from m3pot.simulate.output import Home
from m3pot.simulate.state import Conditions, Method, State, kinetic_energy, without_drift
from m3pot.simulate.thermostats import THERMOSTATS
from m3pot.structure import CLASH_DISTANCE, StructureError, from_ase
from m3pot.units import BOLTZMANN, FEMTOSECOND, GPA

ENSEMBLES = ("nve", "nvt", "npt")
CELLS = ("free", "anisotropic", "isotropic")
_CHAIN = 3  # links of a Nose-Hoover chain


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides where a trajectory goes, apart from atoms and potential; see :func:`m3pot.simulate.md`."""

    ensemble: str = "nvt"
    temperature: tuple[float, float] = (300.0, 300.0)  # K, first and last step
    pressure: tuple[float, float] = (0.0, 0.0)  # eV/A^3
    ramp: int = 1  # steps from the first to the last target
    timestep: float = 1.0  # fs
    thermostat: str = "langevin"
    thermostat_time: float = 100.0  # fs
    cell: str = "free"
    pressure_time: float = 1000.0  # fs
    bulk_modulus: float = 100 * GPA  # eV/A^3
    replicas: int = 1
    seed: int = 0
    fix_com: bool | None = None
    max_temperature: float | None = None  # K
    max_disagreement: float | None = None  # eV/A
    skin: float = 0.5  # A
    dtype: str = "float32"

    def __post_init__(self):
        _one_of("ensemble", self.ensemble, ENSEMBLES)
        _one_of("thermostat", self.thermostat, THERMOSTATS)
        _one_of("cell", self.cell, CELLS)
        for name in ("timestep", "thermostat_time", "pressure_time", "bulk_modulus", "skin", "replicas"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Expected {name} > 0, got {value}; give a positive number.")
        if not all(math.isfinite(t) and t >= 0 for t in self.temperature):
            raise ValueError(f"Expected temperatures of at least 0 K, got {self.temperature}; give numbers in kelvin.")
        if self.ensemble != "nve" and self.thermostat != "langevin" and min(self.temperature) <= 0:
            raise ValueError(f"The {self.thermostat} thermostat needs a temperature above 0 K; choose langevin.")
        if not all(math.isfinite(p) for p in self.pressure):
            raise ValueError(f"Expected finite pressures, got {self.pressure}; give numbers in eV/A^3.")
        if self.timestep > self.thermostat_time:
            raise ValueError(
                f"thermostat_time = {self.thermostat_time} fs is shorter than the timestep of {self.timestep} fs; "
                "choose 50 timesteps or more."
            )


class Start(NamedTuple):
    """A simulation before its first evaluation; conditions and state have a leading axis of replicas."""

    method: Method
    conditions: Conditions
    state: State
    home: Home  # of all replicas


def start(atoms: Any, settings: Settings, elements: frozenset[int] | None = None) -> Start:
    """Conditions and first state of all replicas. Call it under ``numerics(settings.dtype)``.

    Momenta are those of ``atoms`` if it has any, else drawn from the Maxwell-Boltzmann distribution at the first
    temperature, for each replica anew; for ``nve`` they are scaled to exactly that temperature.
    Raises StructureError or ValueError for what cannot be simulated.
    """
    from_ase(atoms, CLASH_DISTANCE, elements=elements)  # raises for what cannot be evaluated
    home = _home(atoms)
    positions = atoms.positions - home.translations @ home.cell - home.origin
    moving = _moving(atoms)
    single = moving.sum() == 1 and settings.ensemble != "npt"
    fix_com = settings.fix_com if settings.fix_com is not None else bool(moving.all()) and not single
    _check_consistency(atoms, settings, moving, fix_com)
    freedom = 3 * int(moving.sum()) - (3 if fix_com else 0)
    thermostat = "" if settings.ensemble == "nve" else settings.thermostat
    method = Method(thermostat, settings.ensemble == "npt", fix_com)

    dtype = np.dtype(settings.dtype)
    masses = np.asarray(atoms.get_masses(), dtype)[:, None]
    volume = abs(np.linalg.det(home.cell))
    modes = _modes(settings.cell, home.cell) if method.barostat else np.zeros((0, 3, 3))
    period = settings.pressure_time * FEMTOSECOND
    max_temperature = settings.max_temperature or max(10 * max(settings.temperature), 10_000.0)
    given = np.asarray(atoms.get_momenta(), dtype)
    conditions, states = [], []
    for replica in range(settings.replicas):
        first, later = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), replica))
        one = Conditions(
            masses=masses,
            moving=moving[:, None],
            freedom=freedom,
            timestep=settings.timestep * FEMTOSECOND,
            key=np.asarray(jax.random.key_data(later)),
            temperature=settings.temperature,
            pressure=settings.pressure,
            ramp=settings.ramp,
            thermostat_time=settings.thermostat_time * FEMTOSECOND,
            modes=modes,
            # A cell of the given bulk modulus then swings with the given period, at critical damping.
            cell_mass=max(3 * volume * settings.bulk_modulus, 1e-3) * (period / (2 * math.pi)) ** 2,
            cell_friction=4 * math.pi / period,
            max_temperature=max_temperature,
            max_disagreement=np.inf if settings.max_disagreement is None else settings.max_disagreement,
            volume=volume,
        )
        one = Conditions(*(x if np.asarray(x).dtype in (bool, np.uint32) else np.asarray(x, dtype) for x in one))
        momenta = given if given.any() else _draw(first, one, exact=settings.ensemble == "nve")
        momenta = without_drift(momenta, masses) if fix_com else np.where(moving[:, None], momenta, 0)
        conditions.append(one)
        states.append(_at_rest(positions, home.cell, np.asarray(momenta, dtype), len(modes), thermostat))
    stacked = [jax.tree.map(lambda *leaves: np.stack(leaves), *parts) for parts in (conditions, states)]
    return Start(method, *stacked, home)


def _home(atoms: Any) -> Home:
    """Translations of atoms more than a cell away, and the mean position of what remains.

    Atoms nearby keep their image: at constant pressure a translation would change with the cell.
    """
    translations = np.zeros((len(atoms), 3))
    cell = np.where(atoms.pbc.any(), atoms.cell.array, 0.0)
    if atoms.pbc.any():
        cells = np.floor(atoms.positions @ np.linalg.pinv(cell[atoms.pbc]) + 1e-9)
        translations[:, atoms.pbc] = np.where(np.abs(cells) > 1, cells, 0)
    return Home(translations, np.mean(atoms.positions - translations @ cell, axis=0), cell)


def _at_rest(positions: np.ndarray, cell: np.ndarray, momenta: np.ndarray, modes: int, thermostat: str) -> State:
    dtype = momenta.dtype
    return State(
        step=np.zeros((), np.int32),
        positions=np.asarray(positions, dtype),
        momenta=momenta,
        cell=np.asarray(cell, dtype),
        strain_rate=np.zeros(modes, dtype),
        chain=np.zeros((2, _CHAIN if thermostat == "nose-hoover" else 0), dtype),
        heat=np.zeros((), dtype),
        energy=np.zeros((), dtype),
        forces=np.zeros(momenta.shape, dtype),
        virial=np.zeros((3, 3), dtype),
        disagreement=np.zeros((), dtype),
    )


def _draw(key: jax.Array, conditions: Conditions, *, exact: bool) -> np.ndarray:
    """Maxwell-Boltzmann momenta; ``exact`` scales them to the temperature that the degrees of freedom should have."""
    masses, moving = conditions.masses, conditions.moving
    noise = jax.random.normal(key, (len(masses), 3), masses.dtype)
    momenta = jnp.where(moving, noise * jnp.sqrt(masses * BOLTZMANN * conditions.temperature[0]), 0)
    freedom = float(conditions.freedom)
    if exact and freedom > 0:
        if freedom < 3 * int(moving.sum()):
            momenta = without_drift(momenta, masses)
        kinetic = kinetic_energy(momenta, masses)
        wanted = freedom * BOLTZMANN * float(conditions.temperature[0]) / 2
        momenta = momenta * jnp.sqrt(wanted / jnp.where(kinetic > 0, kinetic, 1))
    return np.asarray(momenta)


def _modes(cell: str, vectors: np.ndarray) -> np.ndarray:
    """Strain of each degree of freedom of the cell (k, 3, 3), acting on row vectors from the right.

    free: six symmetric strains; anisotropic: the lengths of the lattice vectors, which keep their directions;
    isotropic: one.
    """
    if cell == "isotropic":
        return np.eye(3)[None] / math.sqrt(3)
    one = np.eye(3)
    if cell == "anisotropic":
        inverse = np.linalg.inv(vectors)
        return np.stack([inverse @ np.outer(one[k], one[k]) @ vectors for k in range(3)])
    shears = [(np.outer(one[a], one[b]) + np.outer(one[b], one[a])) / math.sqrt(2) for a, b in ((0, 1), (0, 2), (1, 2))]
    return np.stack([np.outer(one[k], one[k]) for k in range(3)] + shears)


def _moving(atoms: Any) -> np.ndarray:
    from ase.constraints import FixAtoms

    moving = np.ones(len(atoms), bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ValueError(
                f"{type(constraint).__name__} is a constraint that the dynamics does not know; use FixAtoms or none."
            )
        moving[constraint.index] = False
    return moving


def _check_consistency(atoms: Any, settings: Settings, moving: np.ndarray, fix_com: bool) -> None:
    if fix_com and not moving.all():
        raise ValueError("fix_com cannot be combined with fixed atoms; leave fix_com at its default.")
    if settings.ensemble == "npt":
        if not atoms.pbc.all():
            raise StructureError("Constant pressure needs a cell periodic in three directions; use nvt or set pbc.")
        if not moving.all():
            raise ValueError("Constant pressure moves every atom with the cell; use nvt with fixed atoms.")
    elif 3 * moving.sum() <= (3 if fix_com else 0):
        raise ValueError("Nothing can move: no free atom, or one with its centre of mass fixed; set fix_com=False.")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Expected {name} to be {', '.join(choices)}, got {value!r}; choose one of them.")
