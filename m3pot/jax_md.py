"""The potential in the protocol of jax-md, for any cell: small, skewed, slabs, changing boxes.

    neighbor_fn, energy_fn = m3pot.jax_md.neighbor_energy(potential, atoms)
    _, shift_fn = jax_md.space.periodic_general(box, fractional_coordinates=True, wrapped=False)
    neighbors = neighbor_fn.allocate(R)
    init, apply = jax_md.simulate.nvt_langevin(energy_fn, shift_fn, dt, kT)

jax-md's own neighbour lists see the nearest image only (a primitive cell has no edges, without an error), so the list
is ours: on the host, all images, with a skin. Conventions are jax-md's: the columns of ``box`` are the lattice vectors
(``atoms.cell.array.T``), R is fractional, gradients with respect to R are in eV/A, ``quantity.stress`` has the
opposite sign of ASE's. This module does not import jax-md (whose import takes 5 s).

Of jax-md 0.2.29 avoid ``npt_nose_hoover`` (adds a real-space term to fractional coordinates), ``temp_csvr`` (one key
for two random numbers) and mind that temperatures count 3N degrees of freedom; :func:`m3pot.md` has none of this.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from m3pot.graph import Graph
from m3pot.neighbors import neighbor_list
from m3pot.potential import Potential, energy
from m3pot.simulate.edges import stale
from m3pot.structure import check

Box = Float[Array, "..."]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["receivers", "senders", "shifts", "reference_position", "reference_box", "did_buffer_overflow"],
    meta_fields=["update_fn"],
)
@dataclasses.dataclass(frozen=True)
class NeighborList:
    """Directed edges with all images; a pytree of fixed shape."""

    receivers: Int[Array, " e"]  # n on padding
    senders: Int[Array, " e"]
    shifts: Int[Array, "e 3"]
    reference_position: Float[Array, "n 3"]
    reference_box: Float[Array, "3 3"]
    did_buffer_overflow: Bool[Array, ""]  # edges were lost: allocate again and repeat the steps since then
    update_fn: Callable[..., "NeighborList"]

    def update(self, position: Float[Array, "n 3"], **kwargs: Any) -> "NeighborList":
        """A list that is right at ``position`` (and ``box=``): this one, or a new one if atoms have moved too far."""
        return self.update_fn(position, self, **kwargs)


class NeighborFn(NamedTuple):
    """``allocate(R, extra_capacity=0, box=...)`` outside jit, ``update(R, neighbors, box=...)`` anywhere."""

    allocate: Callable[..., NeighborList]
    update: Callable[..., NeighborList]


def neighbor_energy(
    potential: Potential,
    atoms: Any,
    *,
    skin: float = 0.5,
    fractional_coordinates: bool = True,
    headroom: float = 1.15,
) -> tuple[NeighborFn, Callable[..., Float[Array, ""]]]:
    """Neighbour and energy function for ``jax_md.simulate``, ``minimize`` and ``quantity``.

    Args:
        potential: a Potential; cast it with ``astype`` to the dtype of the positions.
        atoms: ASE Atoms; elements, periodic directions and the box used where no ``box=`` is given.
        skin: A; ``update`` makes a new list when it is used up. Call it after every step.
        fractional_coordinates: R in units of the box (as constant pressure needs), or in A (as molecules need).
        headroom: room for edges relative to the number at allocation.

    Returns:
        neighbor_fn, and ``energy_fn(R, neighbor, box=None, perturbation=None)`` in eV. Further keywords that jax-md
        passes on, such as ``kT``, are ignored. ``box`` is a number, a vector or a matrix, a ``perturbation`` deforms
        the space as ``jax_md.quantity.stress`` expects.
    """
    check(atoms, potential.elements)
    periodic = np.array(atoms.pbc, bool)
    own_box, cutoff = np.array(atoms.cell.array.T), float(potential.cutoff)
    species = np.append(atoms.numbers, 0).astype(np.int32)
    owner = np.append(np.zeros(len(atoms)), 1).astype(np.int32)
    n = len(atoms)

    def real(position: Array, box: Array) -> Array:
        return _transform(box, position) if fractional_coordinates else position

    def host_edges(capacity: int, position: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, ...]:
        receivers, senders = np.full(capacity, n, np.int32), np.full(capacity, n, np.int32)
        shifts = np.zeros((capacity, 3), np.int32)
        position, cell = np.asarray(position, np.float64), np.asarray(cell, np.float64)
        count = 0
        if np.isfinite(position).all() and np.isfinite(cell).all():
            found = neighbor_list(position, cell, periodic, cutoff + skin)
            count = len(found[0])
            for target, values in zip((receivers, senders, shifts), found, strict=True):
                target[: min(count, capacity)] = values[:capacity]
        return receivers, senders, shifts, np.array(count > capacity)

    def allocate(
        position: Float[Array, "n 3"], extra_capacity: int = 0, box: Box | None = None, **unused: Any
    ) -> NeighborList:
        box = _matrix(own_box if box is None else box, position.dtype)
        where, cell = np.asarray(real(position, box), np.float64), np.asarray(box, np.float64).T
        count = len(neighbor_list(where, cell, periodic, cutoff + skin)[0])
        capacity = int(np.ceil(max(headroom * count, 1))) + extra_capacity
        receivers, senders, shifts, overflow = map(jnp.asarray, host_edges(capacity, where, cell))
        return NeighborList(receivers, senders, shifts, jnp.asarray(position), box, overflow, update)

    def update(
        position: Float[Array, "n 3"], neighbors: NeighborList, box: Box | None = None, **unused: Any
    ) -> NeighborList:
        box = _matrix(own_box if box is None else box, position.dtype)
        old = neighbors.reference_box
        here, there = real(position, box), real(neighbors.reference_position, old)
        capacity = neighbors.receivers.shape[0]
        fields = neighbors.receivers, neighbors.senders, neighbors.shifts, neighbors.did_buffer_overflow

        def renew() -> NeighborList:
            shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in fields)
            build = functools.partial(host_edges, capacity)
            *edges, overflow = jax.pure_callback(build, shapes, here, box.T, vmap_method="sequential")
            overflow = overflow | neighbors.did_buffer_overflow
            return NeighborList(*edges, position, box, overflow, update)

        outdated = stale(here, box.T, there, old.T, cutoff, skin, bool(periodic.all()))
        return jax.lax.cond(outdated, renew, lambda: neighbors)

    def energy_fn(
        position: Float[Array, "n 3"],
        neighbor: NeighborList,
        box: Box | None = None,
        perturbation: Array | None = None,
        **unused: Any,
    ) -> Float[Array, ""]:
        box = _matrix(own_box if box is None else box, position.dtype)
        where, cell = real(position, box), box.T
        if perturbation is not None:
            deform = _matrix(perturbation, position.dtype)
            where, cell = where @ deform.T, cell @ deform.T
        graph = Graph(
            species=species,
            positions=jnp.concatenate([where, jnp.zeros((1, 3), where.dtype)]),
            cell=jnp.stack([cell, jnp.zeros_like(cell)]),
            owner=owner,
            receivers=neighbor.receivers,
            senders=neighbor.senders,
            shifts=neighbor.shifts,
        )
        return energy(potential, graph)[0]

    return NeighborFn(allocate, update), energy_fn


@jax.custom_jvp
def _transform(box: Float[Array, "3 3"], position: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """box @ R of each atom; as in ``jax_md.space.transform`` the derivative by R is that by the real position."""
    return position @ box.T


@_transform.defjvp
def _transform_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (box, position), (dbox, dposition) = primals, tangents
    return _transform(box, position), dposition + position @ dbox.T


def _matrix(box: Any, dtype: Any) -> Float[Array, "3 3"]:
    """A number or three lengths as a matrix."""
    box = jnp.asarray(box, dtype)
    return box if box.ndim == 2 else box * jnp.eye(3, dtype=dtype)
