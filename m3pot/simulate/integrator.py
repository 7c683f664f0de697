"""One time step: half kick, half drift, bath, half drift | forces | half kick.

The same symmetric, second-order splitting serves all ensembles; without baths it is velocity Verlet. With the bath
in the middle Langevin dynamics is BAOAB, and any other thermostat samples positions equally well
(Z. Zhang et al., J. Phys. Chem. A 123, 6056 (2019)).

Constant pressure is the Langevin piston of D. Quigley, M. I. J. Probert, J. Chem. Phys. 120, 11432 (2004), for the
equations of motion of Martyna, Tobias and Klein with a constant kT in place of the instantaneous 2K/dof, so that one
atom in a cell is possible. In row vectors, with the strain rate v = sum_k u_k B_k of the allowed modes B_k:

    dx/dt = p/m + x v,   dp/dt = F - p v^T,   dh/dt = h v,
    M du_k/dt = B_k : [ sum p p/m - virial - (P V - kT) 1 ] + friction and noise,

which samples exp(-(K + U + PV)/kT) dV for one mode, da db dc for the lengths of the lattice vectors, and dh / V^2 for
a free cell. jax-md's ``npt_nose_hoover`` (0.2.29) is isotropic only and adds ``R (exp(x) - 1)`` to fractional
coordinates, which moves the centre of mass.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m3pot.simulate import thermostats
from m3pot.simulate.state import (
    Conditions,
    Method,
    State,
    kinetic_energy,
    targets,
    volume_of,
    without_drift,
)

_TERMS = 5  # of the exponential series; the strain of one step is 1e-3 at most: the rest is below 1e-20


def first_half(state: State, conditions: Conditions, method: Method) -> State:
    """Everything of a step up to the new positions and cell; energy, forces and virial are still the old ones."""
    half = conditions.timestep / 2
    state = _kick(state, conditions, method, half, cell_first=True)
    state = _drift(state, conditions, method, half)
    state = _bath(state, conditions, method)
    return _drift(state, conditions, method, half)


def second_half(state: State, conditions: Conditions, method: Method) -> State:
    """The last half kick, with energy, forces and virial of the new positions; completes the step."""
    state = _kick(state, conditions, method, conditions.timestep / 2, cell_first=False)
    return state._replace(step=state.step + 1)


def _kick(state: State, conditions: Conditions, method: Method, time: Array, *, cell_first: bool) -> State:
    if not method.barostat:
        return state._replace(momenta=_hold(state.momenta + time * state.forces, conditions, method))
    if cell_first:
        state = _kick_cell(state, conditions, time)
    decay = -_rate(state, conditions).T
    momenta = state.momenta @ _exponential(decay * time) + state.forces @ (time * _mean_exponential(decay * time))
    state = state._replace(momenta=_hold(momenta, conditions, method))
    return state if cell_first else _kick_cell(state, conditions, time)


def _kick_cell(state: State, conditions: Conditions, time: Array) -> State:
    kT, pressure = targets(state.step, conditions)
    motion = state.momenta.T @ (state.momenta / conditions.masses)
    isotropic = (kT - pressure * volume_of(state.cell)) * jnp.eye(3, dtype=state.cell.dtype)
    drive = jnp.einsum("kab,ab->k", conditions.modes, motion - state.virial + isotropic)
    return state._replace(strain_rate=state.strain_rate + time / conditions.cell_mass * drive)


def _drift(state: State, conditions: Conditions, method: Method, time: Array) -> State:
    velocities = state.momenta / conditions.masses
    if not method.barostat:
        return state._replace(positions=state.positions + time * velocities)
    kT, pressure = targets(state.step, conditions)
    rate = _rate(state, conditions)
    strain = _exponential(rate * time)
    centre = jnp.sum(conditions.masses * state.positions, axis=0) / jnp.sum(conditions.masses)
    positions = centre + (state.positions - centre) @ strain + velocities @ (time * _mean_exponential(rate * time))
    cell = state.cell @ strain
    before, after = volume_of(state.cell), volume_of(cell)
    work = kT * jnp.log(after / before) - pressure * (after - before)
    return state._replace(positions=positions, cell=cell, heat=state.heat + work)


def _bath(state: State, conditions: Conditions, method: Method) -> State:
    if not method.thermostat:
        return state
    kT, _ = targets(state.step, conditions)
    key = jax.random.fold_in(jax.random.wrap_key_data(conditions.key), state.step)
    key_atoms, key_cell = jax.random.split(key)
    masses, time = conditions.masses, conditions.timestep
    chain = state.chain
    if method.thermostat == "langevin":
        momenta = thermostats.langevin(state.momenta, masses, kT, time, conditions.thermostat_time, key_atoms)
        momenta = _hold(momenta, conditions, method)
    elif method.thermostat == "csvr":
        momenta = thermostats.csvr(
            state.momenta, masses, conditions.freedom, kT, time, conditions.thermostat_time, key_atoms
        )
    else:
        momenta, chain = thermostats.nose_hoover(
            state.momenta, chain, masses, conditions.freedom, kT, time, conditions.thermostat_time
        )
    heat = kinetic_energy(momenta, masses) - kinetic_energy(state.momenta, masses)
    state = state._replace(momenta=momenta, chain=chain, heat=state.heat + heat)
    if not method.barostat:
        return state
    mass = conditions.cell_mass
    decay = jnp.exp(-time * conditions.cell_friction)
    noise = jax.random.normal(key_cell, state.strain_rate.shape, state.strain_rate.dtype)
    rate = decay * state.strain_rate + jnp.sqrt((1 - decay**2) * kT / mass) * noise
    heat = mass * jnp.sum(rate**2 - state.strain_rate**2) / 2
    return state._replace(strain_rate=rate, heat=state.heat + heat)


def _hold(momenta: Float[Array, "n 3"], conditions: Conditions, method: Method) -> Float[Array, "n 3"]:
    """Fixed atoms do not move; nor does the centre of mass, which float32 forces would push."""
    if method.fix_com:
        return without_drift(momenta, conditions.masses)
    return jnp.where(conditions.moving, momenta, 0)


def _rate(state: State, conditions: Conditions) -> Float[Array, "3 3"]:
    return jnp.einsum("k,kab->ab", state.strain_rate, conditions.modes)


def _exponential(a: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """e^a of a small matrix by its series."""
    one = jnp.eye(3, dtype=a.dtype)
    total = one
    for k in range(_TERMS, 0, -1):
        total = one + a @ total / k
    return total


def _mean_exponential(a: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """(e^a - 1)/a, the mean of e^(s a) for s in [0, 1]."""
    one = jnp.eye(3, dtype=a.dtype)
    total = one
    for k in range(_TERMS, 0, -1):
        total = one + a @ total / (k + 1)
    return total
