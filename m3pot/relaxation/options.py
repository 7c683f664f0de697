"""The choices of one relaxation run."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from m3pot.relaxation.cell import MODES
from m3pot.relaxation.minimizers import MINIMIZERS, Minimizer
from m3pot.units import GPA


@dataclasses.dataclass(frozen=True)
class Options:
    """See :func:`m3pot.relaxation.relax` for the meaning; eV, A, eV/A^3. Raises ValueError for impossible choices."""

    fmax: float = 0.05
    smax: float = 0.1 * GPA
    steps: int = 500
    cell: str = "free"
    mask: Sequence[bool] | None = None
    pressure: float = 0.0
    minimizer: str | Minimizer = "lbfgs"
    dtype: str = "float32"
    device: Any = None
    precision: str = "highest"
    fix_symmetry: bool = False
    symprec: float = 0.01
    repair: bool = True
    trajectory: bool = False
    max_atoms: int = 1000
    max_edges: int | None = None
    max_volume_factor: float = 5.0
    closeness: float = 0.25

    def __post_init__(self) -> None:
        if self.cell not in MODES:
            raise ValueError(f"Expected cell to be one of {', '.join(MODES)}, got {self.cell!r}; choose one of them.")
        if isinstance(self.minimizer, str) and self.minimizer.lower() not in MINIMIZERS:
            raise ValueError(
                f"Expected minimizer to be one of {', '.join(MINIMIZERS)}, got {self.minimizer!r}; choose one of them."
            )
        if self.mask is not None and len(self.mask) != 6:
            raise ValueError(f"Expected a mask of 6 strains (xx yy zz yz xz xy), got {len(self.mask)} values.")
        for name in ("fmax", "smax", "max_atoms", "symprec"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected {name} above 0, got {getattr(self, name)}.")
        if self.steps < 0:
            raise ValueError(f"Expected 0 or more steps, got {self.steps}.")
        if self.smax > 0.03:
            warnings.warn(
                f"smax={self.smax} eV/A^3 is {self.smax / GPA:.3g} GPa: cells will hardly relax; "
                f"for {self.smax} GPa write smax={self.smax * GPA:.3g}.",
                stacklevel=3,
            )

    def method(self) -> Minimizer:
        """The chosen minimiser."""
        return MINIMIZERS[self.minimizer.lower()]() if isinstance(self.minimizer, str) else self.minimizer


STRAINS = ("xx", "yy", "zz", "yz", "xz", "xy")


def strain_mask(text: str | None) -> tuple[bool, ...] | None:
    """Mask of the strains named in a list such as "xx,yy,xy"; None for None."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    unknown = sorted(set(names) - set(STRAINS))
    if unknown:
        raise ValueError(
            f"Expected strains of {', '.join(STRAINS)}, got {', '.join(unknown)!r}; write for example xx,yy,xy."
        )
    return tuple(strain in names for strain in STRAINS)
