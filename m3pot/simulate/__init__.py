"""Molecular dynamics on the device: ``md`` is the door, pure functions of (state, conditions) do the work."""

from m3pot.simulate.run import Simulation, md

__all__ = ["Simulation", "md"]
