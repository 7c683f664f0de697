"""What a simulation is made of: the state that moves, the conditions that do not, and what can be measured.

Functions act on one system; the loop maps them over a leading axis of replicas that every leaf carries.
Time inside is in ASE's unit A sqrt(amu/eV), momenta in sqrt(amu eV), so that p^2/2m is in eV.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from m3pot.units import BOLTZMANN, FEMTOSECOND


class Method(NamedTuple):
    """What is compiled into the loop (static)."""

    thermostat: str = ""  # "", langevin, nose-hoover, csvr
    barostat: bool = False  # the degrees of freedom of the cell are the rows of Conditions.modes
    fix_com: bool = True  # the centre of mass stays where it is


class State(NamedTuple):
    """All that changes; together with the neighbour list's reference it determines every later step."""

    step: Int[Array, ""]
    positions: Float[Array, "n 3"]  # A, never wrapped
    momenta: Float[Array, "n 3"]
    cell: Float[Array, "3 3"]  # rows, A
    strain_rate: Float[Array, " k"]  # speeds of the cell's modes; empty at constant volume
    chain: Float[Array, "2 m"]  # positions and velocities of the Nose-Hoover chain; m = 0 without
    heat: Float[Array, ""]  # eV received from thermostat, barostat and external pressure since the start
    energy: Float[Array, ""]  # eV, potential
    forces: Float[Array, "n 3"]  # eV/A
    virial: Float[Array, "3 3"]  # eV, volume times the stress of the potential (tensile positive)
    disagreement: Float[Array, ""]  # eV/A, largest force deviation within an ensemble of potentials; 0 for one


class Conditions(NamedTuple):
    """All numbers that stay: the atoms, the baths, the limits."""

    masses: Float[Array, "n 1"]  # amu
    moving: Bool[Array, "n 1"]  # False for fixed atoms
    freedom: Float[Array, ""]  # degrees of freedom of the momenta
    timestep: Float[Array, ""]  # ASE time
    key: UInt32[Array, "2"]  # raw PRNG key; the noise of a step is a function of it and the step's number
    temperature: Float[Array, "2"]  # K, at the first and the last step of a linear ramp
    pressure: Float[Array, "2"]  # eV/A^3, likewise
    ramp: Float[Array, ""]  # steps of the ramp
    thermostat_time: Float[Array, ""]  # ASE time
    modes: Float[Array, "k 3 3"]  # strain of each degree of freedom of the cell
    cell_mass: Float[Array, ""]  # eV ASE-time^2
    cell_friction: Float[Array, ""]  # 1 / ASE time
    max_temperature: Float[Array, ""]  # K, beyond which the run has exploded
    max_disagreement: Float[Array, ""]  # eV/A, beyond which the run stops
    volume: Float[Array, ""]  # A^3 at the start; 0 without a cell


class Observables(NamedTuple):
    """One line of the log."""

    step: Int[Array, ""]
    time: Float[Array, ""]  # fs
    temperature: Float[Array, ""]  # K
    potential: Float[Array, ""]  # eV
    kinetic: Float[Array, ""]  # eV
    pressure: Float[Array, ""]  # eV/A^3, kinetic part included; NaN without a volume
    volume: Float[Array, ""]  # A^3
    conserved: Float[Array, ""]  # eV
    disagreement: Float[Array, ""]  # eV/A


def kinetic_energy(momenta: Float[Array, "n 3"], masses: Float[Array, "n 1"]) -> Float[Array, ""]:
    """Sum of p^2/2m in eV."""
    return jnp.sum(momenta**2 / masses) / 2


def volume_of(cell: Float[Array, "3 3"]) -> Float[Array, ""]:
    """|det cell| in A^3."""
    return jnp.abs(jnp.sum(cell[0] * jnp.cross(cell[1], cell[2])))


def targets(step: Int[Array, ""], conditions: Conditions) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """kT in eV and pressure in eV/A^3 that the baths aim at during a step."""
    share = jnp.clip(step / conditions.ramp, 0, 1).astype(conditions.ramp.dtype)
    temperature = (1 - share) * conditions.temperature[0] + share * conditions.temperature[1]
    pressure = (1 - share) * conditions.pressure[0] + share * conditions.pressure[1]
    return BOLTZMANN * temperature, pressure


def without_drift(momenta: Float[Array, "n 3"], masses: Float[Array, "n 1"]) -> Float[Array, "n 3"]:
    """Momenta with zero sum: the velocity of the centre of mass is taken off each atom."""
    return momenta - masses * (jnp.sum(momenta, axis=0) / jnp.sum(masses))


def observe(state: State, conditions: Conditions) -> Observables:
    """Instantaneous quantities. ``conserved`` is constant up to the integrator's error in every ensemble.

    It is the energy of atoms (and cell modes) minus all that the baths gave: heat of the thermostats,
    and -P dV + kT dlnV of the barostat.
    """
    kinetic = kinetic_energy(state.momenta, conditions.masses)
    volume = volume_of(state.cell)
    pressure = (2 * kinetic - jnp.trace(state.virial)) / jnp.where(volume > 0, 3 * volume, jnp.nan)
    of_cell = conditions.cell_mass * jnp.sum(state.strain_rate**2) / 2
    return Observables(
        step=state.step,
        time=state.step * conditions.timestep / FEMTOSECOND,
        temperature=2 * kinetic / (BOLTZMANN * jnp.maximum(conditions.freedom, 1)),
        potential=state.energy,
        kinetic=kinetic,
        pressure=pressure,
        volume=volume,
        conserved=state.energy + kinetic + of_cell - state.heat,
        disagreement=state.disagreement,
    )
