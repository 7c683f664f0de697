"""A number for each element as a heat map of the periodic table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from m3pot.train.plots import save

_ROWS = (  # first atomic number, first column of each run of boxes, by row
    ((1, 0), (2, 17)),
    ((3, 0), (4, 1), (5, 12)),
    ((11, 0), (12, 1), (13, 12)),
    ((19, 0),),
    ((37, 0),),
    ((55, 0), (72, 3)),
    ((87, 0), (104, 3)),
)
_ENDS = (2, 10, 18, 36, 54, 86, 118)


def box(number: int) -> tuple[float, int]:
    """Row and column of an element; lanthanides and actinides from 57 and 89 on stand below."""
    if 57 <= number <= 71:
        return 7.5, number - 57 + 2
    if 89 <= number <= 103:
        return 8.5, number - 89 + 2
    row = next(k for k, end in enumerate(_ENDS) if number <= end)
    first, column = max(run for run in _ROWS[row] if run[0] <= number)
    return row, column + number - first


def heat_map(
    values: Mapping[str, float], path: Path, *, title: str, label: str, top: float | None = None, digits: int = 2
) -> Path:
    """Write a PNG with the value of each element; the colours end at ``top`` (default: the 90th percentile)."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    known = {symbol: value for symbol, value in values.items() if np.isfinite(value)}
    if top is None:
        top = float(np.percentile(list(known.values()), 90)) if known else 1.0
    scale, colours = Normalize(0, max(top, 1e-12)), colormaps["viridis_r"]
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes: Any = figure.subplots()
    for number in range(1, 104):
        symbol = chemical_symbols[number]
        row, column = box(number)
        value = known.get(symbol)
        colour = (0.94, 0.94, 0.94, 1.0) if value is None else colours(scale(value))
        axes.add_patch(Rectangle((column, row), 0.95, 0.95, facecolor=colour, edgecolor="none"))
        ink = "0.6" if value is None else "white" if np.dot(colour[:3], (0.3, 0.6, 0.1)) < 0.5 else "black"
        axes.text(column + 0.47, row + 0.38, symbol, ha="center", va="center", color=ink, weight="bold")
        if value is not None:
            axes.text(column + 0.47, row + 0.76, f"{value:.{digits}f}", ha="center", va="center", color=ink, size=7)
    axes.set(xlim=(-0.1, 18.1), ylim=(9.6, -0.1), aspect="equal", title=title)
    axes.axis("off")
    figure.colorbar(ScalarMappable(scale, colours), ax=axes, label=label, shrink=0.6, extend="max")
    save(figure, path)
    return path
