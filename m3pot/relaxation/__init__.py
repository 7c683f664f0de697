"""Relaxation of thousands of structures on the device: minimisers, the batched loop, quarantine and output."""

from m3pot.relaxation.api import Relaxer, iter_relax, relax
from m3pot.relaxation.minimizers import MINIMIZERS, Minimizer, fire, lbfgs
from m3pot.relaxation.options import Options
from m3pot.relaxation.results import STATUSES, Relaxed

__all__ = [
    "MINIMIZERS",
    "STATUSES",
    "Minimizer",
    "Options",
    "Relaxed",
    "Relaxer",
    "fire",
    "iter_relax",
    "lbfgs",
    "relax",
]
