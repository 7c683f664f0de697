"""The report as figures and as one HTML page that needs no other file."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from m3pot.simulate.report import Measured, Value

_LABELS = {
    "temperature_K": "temperature / K",
    "pressure_GPa": "pressure / GPa",
    "volume_A3": "volume / Å³",
    "density_g_cm3": "density / g/cm³",
    "potential_eV_per_atom": "potential energy / eV/atom",
    "total_eV_per_atom": "total energy / eV/atom",
    "conserved_eV": "conserved quantity / meV/atom",
    "force_disagreement_eV_A": "force disagreement / eV/Å",
}
_POINTS = 2000  # of a curve, at most
_STYLE = """body{font:15px/1.45 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .9em;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}.flag{color:#b00020}.note{color:#666}"""


def draw(measured: Measured) -> dict[str, bytes]:
    """PNG figures: ``series`` (thermodynamic quantities over time) and ``structure`` (g(r), MSD, VDOS), if there."""
    figures = {"series": _draw_series(measured), "structure": _draw_structure(measured)}
    return {name: _png(figure) for name, figure in figures.items() if figure is not None}


def page(runs: Sequence[tuple[Measured, Mapping[str, bytes]]]) -> str:
    """HTML document with the numbers and figures of all runs."""
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>m3pot md-report</title><style>{_STYLE}</style>"
    ]
    parts.append("<h1>Molecular dynamics</h1>")
    for measured, figures in runs:
        parts.append(f"<h2>{escape(measured.name)}</h2>")
        about = {key.replace("_", " "): value for key, value in measured.about.items() if value is not None}
        parts.append("<p>" + ", ".join(f"{escape(key)} {_text(value)}" for key, value in about.items()) + "</p>")
        parts += [f"<p class='flag'>{escape(flag)}</p>" for flag in measured.flags]
        parts.append("<table><tr><th>quantity<th>mean<th>standard error</tr>")
        parts += [_row(_LABELS.get(name, name), value) for name, value in measured.averages.items()]
        if measured.drift is not None:
            parts.append(_row("drift of the conserved quantity / meV/atom/ps", measured.drift))
        for element, found in measured.diffusion.items():
            value = Value(found["coefficient_cm2_s"], found["error_cm2_s"])
            label = f"diffusion of {element} / cm²/s (displacement² ~ time^{found['exponent']:.2f})"
            parts.append(_row(label, value))
        parts.append("</table>")
        for name, data in figures.items():
            parts.append(f"<img alt='{name}' src='data:image/png;base64,{base64.b64encode(data).decode()}'>")
        parts += [f"<p class='note'>{escape(note)}</p>" for note in measured.notes]
    return "\n".join([*parts, "</html>\n"])


def _row(label: str, value: Value) -> str:
    return f"<tr><td>{escape(label)}<td class='n'>{value.mean:.6g}<td class='n'>{value.error:.2g}</tr>"


def _text(value: Any) -> str:
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))


def _draw_series(measured: Measured) -> Any:
    from matplotlib.figure import Figure

    time, table = measured.series
    rows = -(-len(table) // 3)
    figure = Figure(figsize=(12, 2.7 * rows), layout="constrained")
    panels = np.ravel(figure.subplots(rows, 3, squeeze=False))
    stride = -(-len(time) // _POINTS)
    for axes, (name, values) in zip(panels, table.items(), strict=False):
        if name == "conserved_eV":
            values = (values - values[0]) * 1000 / measured.about["atoms"]
        axes.plot(time[::stride], values[::stride], color="C0", linewidth=0.7, alpha=max(0.25, 1 / values.shape[1]))
        if name in measured.averages:
            mean, error = measured.averages[name]
            axes.axhspan(mean - error, mean + error, color="C1", alpha=0.4)
            axes.axhline(mean, color="C1", linewidth=1)
            axes.set_title(f"{mean:.6g} ± {error:.2g}", fontsize="medium")
        elif measured.drift is not None:
            axes.set_title(f"{measured.drift.mean:.3g} ± {measured.drift.error:.2g} meV/atom/ps", fontsize="medium")
        axes.axvspan(time[0], measured.about["skipped_ps"], color="0.9", zorder=0)
        axes.set(xlabel="time / ps", ylabel=_LABELS[name], xlim=(time[0], time[-1] if len(time) > 1 else None))
    for axes in panels[len(table) :]:
        axes.set_axis_off()
    return figure


def _draw_structure(measured: Measured) -> Any:
    from matplotlib.figure import Figure

    curves = {
        ("distance / Å", "g(r)"): measured.rdf,
        ("time / ps", "mean square displacement / Å²"): measured.msd,
        ("frequency / THz", "vibrational states / 1/THz"): measured.vdos,
    }
    curves = {labels: curve for labels, curve in curves.items() if curve[1]}
    if not curves:
        return None
    figure = Figure(figsize=(4 * len(curves), 3.4), layout="constrained")
    for axes, ((x_label, y_label), (x, table)) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        for name, y in table.items():
            axes.plot(x, y, linewidth=1, label=name)
        seen = np.flatnonzero(np.max(list(table.values()), axis=0) > 1e-3 * np.max(list(table.values())))
        axes.set(xlabel=x_label, ylabel=y_label, ylim=(0, None), xlim=(0, x[seen[-1]] if len(seen) else None))
        if len(table) > 1:
            axes.legend(fontsize="small")
    return figure


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
