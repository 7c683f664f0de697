"""Properties of crystals from a potential or any ASE calculator, in batches: equations of state, phonons ..."""

from m3pot.properties.dimer import Dimer, dimers
from m3pot.properties.elastic import Elasticity, elastic
from m3pot.properties.eos import BirchMurnaghan, EquationOfState, eos, fit_birch_murnaghan
from m3pot.properties.formation import Formation, Phase, formation
from m3pot.properties.neb import Barrier, neb
from m3pot.properties.phonons import Phonons, phonons

__all__ = [
    "Barrier",
    "BirchMurnaghan",
    "Dimer",
    "Elasticity",
    "EquationOfState",
    "Formation",
    "Phase",
    "Phonons",
    "dimers",
    "elastic",
    "eos",
    "fit_birch_murnaghan",
    "formation",
    "neb",
    "phonons",
]
