"""Thermostats: pure functions that act on momenta for a time, exact or symmetric, with the right degrees of freedom.

jax-md 0.2.29 is not used here: its ``temp_csvr`` draws both random numbers of a step from one key (the kinetic energy
of few atoms fluctuates too much) and its thermostats count 3N degrees of freedom although the centre of mass is at rest
(a cell of N atoms runs hot by N/(N-1)).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m3pot.simulate.state import kinetic_energy

THERMOSTATS = ("langevin", "nose-hoover", "csvr")
# Yoshida's three substeps of fourth order. The weights 0.829, -0.658, 0.829 of several codes, jax-md among them, are
# the five-substep set with two pairs merged: second order only.
_YOSHIDA = (1 / (2 - 2 ** (1 / 3)), -(2 ** (1 / 3)) / (2 - 2 ** (1 / 3)), 1 / (2 - 2 ** (1 / 3)))


def langevin(
    momenta: Float[Array, "n 3"],
    masses: Float[Array, "n 1"],
    kT: Float[Array, ""],
    time: Float[Array, ""],
    relaxation: Float[Array, ""],
    key: Array,
) -> Float[Array, "n 3"]:
    """Exact Ornstein-Uhlenbeck motion for ``time``: p e^(-t/tau) + sqrt(m kT (1 - e^(-2t/tau))) xi.

    As the middle of a step this is BAOAB: B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34.
    The caller removes the drift and the noise of fixed atoms (a projection keeps the distribution canonical).
    """
    noise = jax.random.normal(key, momenta.shape, momenta.dtype)
    decay = jnp.exp(-time / relaxation)
    return decay * momenta + jnp.sqrt(-jnp.expm1(-2 * time / relaxation) * masses * kT) * noise


def csvr(
    momenta: Float[Array, "n 3"],
    masses: Float[Array, "n 1"],
    freedom: Float[Array, ""],
    kT: Float[Array, ""],
    time: Float[Array, ""],
    relaxation: Float[Array, ""],
    key: Array,
) -> Float[Array, "n 3"]:
    """Stochastic velocity rescaling: G. Bussi, D. Donadio, M. Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7.

    The kinetic energy makes an exact random step of the canonical distribution, directions of motion stay.
    """
    first, others = jax.random.split(key)
    one = jax.random.normal(first, (), momenta.dtype)
    rest = 2 * jax.random.gamma(others, jnp.maximum(freedom - 1, 1) / 2, (), momenta.dtype)
    rest = jnp.where(freedom > 1, rest, 0)
    kinetic = kinetic_energy(momenta, masses)
    decay = jnp.exp(-time / relaxation)
    ratio = -jnp.expm1(-time / relaxation) * kT / (2 * jnp.where(kinetic > 0, kinetic, 1))
    square = decay + ratio * (one**2 + rest) + 2 * one * jnp.sqrt(decay * ratio)
    return jnp.where(kinetic > 0, jnp.sqrt(jnp.maximum(square, 0)), 1) * momenta


def nose_hoover(
    momenta: Float[Array, "n 3"],
    chain: Float[Array, "2 m"],
    masses: Float[Array, "n 1"],
    freedom: Float[Array, ""],
    kT: Float[Array, ""],
    time: Float[Array, ""],
    relaxation: Float[Array, ""],
) -> tuple[Float[Array, "n 3"], Float[Array, "2 m"]]:
    """Nose-Hoover chain, symmetric splitting of fourth order; deterministic.

    G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996), eqs. 19 to 29.
    Masses: Q_1 = freedom kT tau^2, others kT tau^2. Invariant: see :func:`chain_energy`.
    """
    count = chain.shape[1]
    inertia = chain_masses(freedom, kT, relaxation, count)
    xi, v = list(chain[0]), list(chain[1])
    twice_kinetic = 2 * kinetic_energy(momenta, masses)
    scale = jnp.ones_like(twice_kinetic)

    def kick(k: int, dt):
        drive = twice_kinetic * scale**2 - freedom * kT if k == 0 else inertia[k - 1] * v[k - 1] ** 2 - kT
        drag = jnp.exp(-v[k + 1] * dt / 4) if k + 1 < count else 1
        v[k] = (v[k] * drag + drive / inertia[k] * dt / 2) * drag

    for weight in _YOSHIDA:
        dt = weight * time
        for k in reversed(range(count)):
            kick(k, dt)
        scale = scale * jnp.exp(-v[0] * dt)
        xi = [x + u * dt for x, u in zip(xi, v, strict=True)]
        for k in range(count):
            kick(k, dt)
    return scale * momenta, jnp.stack([jnp.stack(xi), jnp.stack(v)])


def chain_masses(
    freedom: Float[Array, ""], kT: Float[Array, ""], relaxation: Float[Array, ""], count: int
) -> Float[Array, " m"]:
    """Inertia of each link in eV ASE-time^2."""
    links = jnp.ones(count, kT.dtype).at[:1].set(jnp.maximum(freedom, 1))
    return links * kT * relaxation**2


def chain_energy(
    chain: Float[Array, "2 m"], freedom: Float[Array, ""], kT: Float[Array, ""], relaxation: Float[Array, ""]
) -> Float[Array, ""]:
    """Energy of the chain in eV; with the kinetic energy it is constant under :func:`nose_hoover`."""
    inertia = chain_masses(freedom, kT, relaxation, chain.shape[1])
    return jnp.sum(inertia * chain[1] ** 2) / 2 + kT * (freedom * chain[0, 0] + jnp.sum(chain[0, 1:]))
