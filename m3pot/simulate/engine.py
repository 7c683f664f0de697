"""The running simulation: state on the device, neighbour list from the host, and what to do when the loop stops."""

import dataclasses
from typing import Any

import jax
import numpy as np

from m3pot.ensemble import Ensemble
from m3pot.execution import find_device
from m3pot.potential import Potential
from m3pot.simulate import edges as edge_lists
from m3pot.simulate import loop
from m3pot.simulate.output import Home
from m3pot.simulate.restart import Restart
from m3pot.simulate.settings import Settings, Start
from m3pot.simulate.state import Conditions, Method, State

REASONS = {
    loop.NAN: ("nan", "energy, forces or momenta are not finite"),
    loop.EXPLODED: ("exploded", "the temperature passed max_temperature; try a shorter timestep or relax first"),
    loop.COLLAPSED: ("collapsed", f"the volume changed by more than a factor of {loop.VOLUME_FACTOR:g}"),
    loop.UNCERTAIN: ("uncertain", "the potentials of the ensemble disagree by more than max_disagreement"),
}
_CROWDED = 20  # times the edges of the start: the cell has collapsed before the volume says so


@dataclasses.dataclass
class Engine:
    """The mutable part of a run."""

    potential: Potential | Ensemble
    species: jax.Array
    pbc: np.ndarray
    method: Method
    skin: float
    home: Home
    state: State
    conditions: Conditions
    edges: edge_lists.EdgeList
    room: int  # edges within the cutoff
    limit: int  # edges beyond which the cell has collapsed

    @property
    def step(self) -> int:
        """Number of the last complete step."""
        return int(np.asarray(self.state.step)[0])

    def rebuild(self) -> None:
        """New neighbour list for the present positions."""
        positions, cell = np.asarray(self.state.positions), np.asarray(self.state.cell)
        radius = self.potential.cutoff + self.skin
        edges = edge_lists.build(positions, cell, self.pbc, radius, len(self.edges.receivers))
        self.edges = jax.device_put(edges)

    def advance(self, stop: int) -> str:
        """Step towards ``stop``, perhaps not all the way; returns "" or the name of an incident."""
        before = self.step
        arguments = self.potential, self.species, self.state, self.conditions, self.edges, np.int32(stop)
        self.state, codes = loop.jit_advance(
            *arguments, method=self.method, cutoff=float(self.potential.cutoff), skin=self.skin, room=self.room
        )
        codes = np.asarray(codes)
        if (codes == loop.OVERFLOW).any():  # the step was not made; make it with more room
            self.room = edge_lists.capacity_for(self.room, edge_lists.GROWTH)
            return "collapsed" if self.room > self.limit else ""
        if codes.any():
            return REASONS[int(min(codes[codes > 0]))][0]
        if self.step == stop:
            return ""
        if self.step == before and np.array_equal(self.edges.positions, self.state.positions):
            return "exploded"  # atoms move more than half the skin in one step
        self.rebuild()
        return "collapsed" if len(self.edges.receivers) > self.limit else ""


def create(
    model: Potential | Ensemble, atoms: Any, begun: Start, settings: Settings, saved: Restart | None, device: Any
) -> Engine:
    """First evaluation, or the state of a restart file."""
    state, conditions, home = (begun.state, begun.conditions, begun.home) if saved is None else saved[:3]
    reference = (state.positions, state.cell) if saved is None else (saved.positions, saved.cell)
    cutoff = float(model.cutoff)
    room = len(edge_lists.build(*reference, atoms.pbc, cutoff).receivers) if saved is None else saved.room
    edges = edge_lists.build(*reference, atoms.pbc, cutoff + settings.skin, 0 if saved is None else saved.capacity)
    limit = _CROWDED * len(edges.receivers)
    arrays = model, np.asarray(atoms.numbers, np.int32), state, conditions, edges
    model, species, state, conditions, edges = jax.device_put(arrays, find_device(device))
    if saved is None:
        state, _ = loop.jit_evaluate(model, species, state, edges, cutoff=cutoff, room=room)
    return Engine(model, species, atoms.pbc, begun.method, settings.skin, home, state, conditions, edges, room, limit)
