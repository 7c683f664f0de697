"""Tables of README.md from the files in benchmarks/results.

    python benchmarks/figures.py           # write them
    python benchmarks/figures.py --check   # only say whether they are up to date (exit code 1: not)

What stands between <!-- NAME --> and <!-- /NAME --> is made from the results of that name, nothing is typed by hand.
A block is empty as long as its file does not exist. PNG figures beside the files are shown with them.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"  # from the README
NAMES = {
    "m3gnet": "M3GNet 2022",
    "MatterSim-v1.0.0-1M": "MatterSim 1M",
    "MatterSim-v1.0.0-5M": "MatterSim 5M",
    "mptrj-random-500": "MPtrj (parents in M3GNet's training set), DFT",
    "alexandria-random-500": "Alexandria, DFT",
    "heo-valid": "oxides of five and more elements, DFT",
    "held-out-near-equilibrium": "held-out formulas near equilibrium, teacher",
    "held-out-hot-compressed": "held-out formulas, hot or displaced and compressed, teacher",
    "held-out-compounds": "held-out formulas, elements and binary compounds, 84 to 120 % of their volume, teacher",
    "chgnet.model.dynamics_CHGNetCalculator": "CHGNet",
    "md": "m3pot",
    "ase": "ASE, same potential",
    "matgl": "MatGL",
}
ACWF_GROUPS = {  # where the energies of Materials Project (MP) mean something else than those of ACWF, or nothing
    "V Cr Mn Fe Co Ni Mo W: MP adds U and spin": "V Cr Mn Fe Co Ni Mo W",
    "lanthanides (most with f electrons in the core in MP) and actinides": "La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb "
    "Lu Ac Th Pa U Np Pu",
    "noble gases": "He Ne Ar Kr Xe Rn",
}
COSTS = {"first_s": "first use, s", "host_share": "host / wall time"}
MEASURES = ("energy_mae", "forces_mae", "stress_mae")
Document = dict[str, Any]


def number(value: float | None, digits: int = 3) -> str:
    """So many significant digits, with an exponent below 1e-4; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def name_of(key: str) -> str:
    return NAMES.get(key, key)


def errors(entries: Iterable[tuple[str, str, Document]]) -> str:
    """Sets down, models across, energy / forces / stress in each cell; from (set, model, row)."""
    found: dict[str, dict[str, Document]] = {}
    for key, model, row in entries:
        found.setdefault(key, {})[model] = row
    models = list(dict.fromkeys(model for by_model in found.values() for model in by_model))
    rows = []
    for key, by_model in found.items():
        cells = [" / ".join(number(by_model.get(m, {}).get(k)) for k in MEASURES) for m in models]
        count = next(iter(by_model.values())).get("structures")
        rows.append([f"{name_of(key)}, {count:.0f} frames" if count else name_of(key), *cells])
    return table(["frames", *(f"{name_of(model)}: E / F / S" for model in models)], rows)


def models() -> str:
    """One line for each shipped model, from the card in its file."""
    lines = []
    for path in sorted((ROOT / "m3pot" / "weights").glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        card = json.loads(header["__metadata__"]["m3pot"])["card"]
        training = card["training"]
        machine = training.get("processor") or training["devices"][0]
        lines.append(
            f"* `{card['name']}`: trained on {training['structures']} labelled structures ({training['atoms']} atoms), "
            f"{training['steps']} steps, {training['hours']:.2g} h on {machine}"
        )
    return "\n".join(lines)


def accuracy(document: Document) -> str:
    return errors((row["set"], row["model"], row) for row in document["rows"] if row["element"] == "all")


def efs(document: Document) -> str:
    labelled = ((label, row) for label, rows in document["rows"].items() for row in rows)
    return errors((row["name"], label, row) for label, row in labelled if row["status"] == "done")


def acwf(document: Document) -> str:
    columns = {
        "median_V0_percent": "V0, %",
        "median_B0_percent": "B0, %",
        "median_epsilon": "epsilon",
        "good_percent": "epsilon below 0.2, %",
    }
    rows = [
        [name_of(row["model"]), row["crystals"], *(number(row[key]) for key in columns)]
        for row in document["summary_of_common_items"]
    ]
    return table(["median error", "oxides", *columns.values()], rows) + "\n\n" + acwf_groups(document)


def acwf_groups(document: Document) -> str:
    """Median errors of the oxides that all models could fit, by the group of their element."""
    group_of = {element: group for group, elements in ACWF_GROUPS.items() for element in elements.split()}
    found = {model: {row["name"]: row for row in rows} for model, rows in document["rows"].items()}
    members: dict[str, list[str]] = {group: [] for group in ("all others", *ACWF_GROUPS)}
    for name, row in next(iter(found.values())).items():
        if all(by_name[name]["status"] == "done" for by_name in found.values()):
            members[group_of.get(row["element"], "all others")].append(name)

    def cell(rows: list[Document]) -> str:
        return " / ".join(number(100 * statistics.median(abs(row[key]) for row in rows)) for key in ("dV0", "dB0"))

    rows = [
        [group, len(names), *(cell([by_name[name] for name in names]) for by_name in found.values())]
        for group, names in members.items()
        if names
    ]
    return table(["V0 / B0, %, oxides of", "oxides", *map(name_of, found)], rows)


def dft_eos(document: Document) -> str:
    keys = ("V0", "B0_GPa", "B1")
    reference = [number(document["rows"][0][f"{key}_reference"], 4) for key in keys]
    rows = [["all-electron average", *reference, "-"]]
    for row in document["rows"]:
        rows.append([name_of(row["model"]), *(number(row[key], 4) for key in keys), number(row["epsilon"], 2)])
    return table([document["settings"]["oxide"], "V0 / A^3", "B0 / GPa", "B1", "epsilon"], rows)


def solids(document: Document) -> str:
    """One row for each crystal and model; found against reference in each cell."""
    elastic = {"a": "a / A", "bulk_GPa": "B0 / GPa", "C11_GPa": "C11", "C12_GPa": "C12", "C44_GPa": "C44"}
    phonon = {"Gamma_highest_THz": "Γ / THz"}
    phonon |= {f"{q}_{end}_THz": f"{q}, {end}" for q in ("X", "L") for end in ("lowest", "highest")}
    rows, sources = [], {}
    for label, found in document["elastic"]["rows"].items():
        waves = {row["name"]: row for row in document["phonon"]["rows"][label]}
        for crystal in found:
            name, wave = crystal["name"], waves.get(crystal["name"], {})
            cells = [_with_reference(crystal, key) for key in elastic] + [_with_reference(wave, key) for key in phonon]
            rows.append([name, name_of(label), *cells])
            sources[name] = "; phonons: ".join(row["source"] for row in (crystal, wave) if "source" in row)
    listed = [f"* {name}: {text}" for name, text in sources.items()]
    return "\n".join([table(["", "", *elastic.values(), *phonon.values()], rows), "", *listed])


def _with_reference(row: Document, key: str) -> str:
    """A number, its reference in brackets where there is one; a dash for none, as of optical modes of one atom."""
    value, reference = row.get(key), row.get(f"{key}_reference")
    if value is None or abs(value) < 1e-3:
        return "-"
    return number(value) if reference is None else f"{number(value)} ({number(reference)})"


def speed(document: Document) -> str:
    rows = [
        [row["atoms"], *(number(row[f"{name}_ms"]) for name in ("m3pot", "trimmed", "matgl")), number(row["ratio"], 2)]
        for row in document["rows"]
    ]
    return table(["atoms", "m3pot, ms", "m3pot, memory not kept, ms", "MatGL, ms", "MatGL / m3pot"], rows)


def training(document: Document) -> str:
    names = {
        "m3pot": "m3pot, MatGL's architecture, 64 units",
        "matgl": "MatGL, M3GNet, 64 units",
        "matgl-128": "MatGL, M3GNet, 128 units",
    }
    rows = []
    for row in document["rows"]:
        speeds = [number(row["structures_per_s"]), number(row["ratio"], 2), number(row["peak_MB"] / 1000, 2)]
        rows.append([names.get(row["model"], row["model"]), row["parameters"], *speeds])
    return table(["training", "parameters", "structures/s", "MatGL of that width = 1", "memory, GB"], rows)


def relax(document: Document) -> str:
    methods = {"batched": "m3pot, batched", "ase_fire": "ASE, FIRE", "ase_lbfgs": "ASE, LBFGS"}
    methods |= {"matgl": f"MatGL Relaxer, {document['matgl']['model']}"} if "matgl" in document else {}
    rows = []
    for key, label in methods.items():
        if key in document:
            row = document[key]
            converged = row["status"].get("converged", 0) if "status" in row else "-"
            speeds = [number(row["structures_per_s"]), number(row["ms_per_force_call"])]
            ratio = number(row["batched_is_faster_by"], 2) if "batched_is_faster_by" in row else "-"
            rows.append([label, row["structures"], converged, *speeds, ratio])
    return table(["", "crystals", "converged", "structures/s", "ms per force call", "batched is faster by"], rows)


def relax_equality(document: Document) -> str:
    differences = document["largest_differences_batch_alone"]
    pairs = {"batch_against_ase_fire": "m3pot's minimizer", "batch_fire_against_ase_fire": "m3pot, FIRE"}
    rows = []
    for key, label in pairs.items():
        row = document[key]
        counts = [row[name] for name in ("compared", "same", "lower", "higher")]
        rows.append([label, *counts, row["force_calls_ours"], row["force_calls_theirs"]])
    columns = ["against ASE's FIRE", "crystals", "same energy", "lower", "higher", "force calls", "of ASE"]
    energy, length = (number(differences[key], 1) for key in ("energy_eV_per_atom", "positions_A"))
    sentence = f"In float64 one batch differs from one by one by at most {energy} eV/atom and {length} A."
    return f"{sentence}\n\n{table(columns, rows)}"


def relax_faults(document: Document) -> str:
    settings, same = document["settings"], document["healthy_against_undisturbed"]
    return (
        f"{settings['count']} cells, {sum(sum(counts.values()) for counts in document['status_of_faults'].values())} "
        f"of them broken in {len(document['status_of_faults'])} ways, killed {len(document['killed_after_results'])} "
        f"times and resumed: {document['lost']} lost, {document['twice']} twice, {document['hung']} hangs, "
        f"{document['wrong_status']} wrong verdicts; the {same['compared']} healthy ones differ from an undisturbed "
        f"run by at most {number(same['energy_eV_per_atom'], 1)} eV/atom."
    )


def md(document: Document) -> str:
    engines = [key for key in ("md", "ase", "matgl") if key in document["rows"][0]]
    rows = [
        [row["ensemble"], row["atoms"], *(number(row.get(key)) for key in engines)]
        + [number(row.get(f"md / {key}"), 2) for key in engines[1:]]
        for row in document["rows"]
    ]
    heads = [f"{name_of(key)}, steps/s" for key in engines] + [f"faster than {name_of(key)}" for key in engines[1:]]
    return table(["ensemble", "atoms", *heads], rows)


def device(document: Document) -> str:
    """Dynamics by size, then relaxation and prediction, without what failed."""
    parts = {key: [row for row in document.get(key, []) if "error" not in row] for key in ("md", "relax", "predict")}
    labels = {"relax": "relaxation, cell and positions", "predict": "energy, forces and stress"}
    speeds, rates = ("steps_per_s", "atom_steps_per_s", *COSTS), ("structures_per_s", *COSTS)
    steps = [[name_of(row["model"]), row["atoms"], *(number(row[key]) for key in speeds)] for row in parts["md"]]
    batches = [
        [name_of(row["model"]), label, row["structures"], *(number(row[key]) for key in rates)]
        for part, label in labels.items()
        for row in parts[part]
    ]
    tables = [(["model", "atoms", "steps/s", "atom-steps/s", *COSTS.values()], steps)]
    tables += [(["model", "crystals", "number", "structures/s", *COSTS.values()], batches)]
    return "\n\n".join(table(columns, rows) for columns, rows in tables if rows)


def nve(document: Document) -> str:
    rows = document["rows"].values()
    drifts = [
        [row["what"], row["atoms"], number(row["picoseconds"]), number(row["drift_meV_atom_ps"], 2)]
        for row in rows
        if "what" in row
    ]
    orders = [
        [name.removeprefix("order, "), number(row["order"])] for name, row in document["rows"].items() if "order" in row
    ]
    tables = [(["constant energy, float32", "atoms", "ps", "drift, meV/atom/ps"], drifts)]
    tables += [(["conserved quantity, float64", "order in the timestep"], orders)]
    return "\n\n".join(table(columns, rows) for columns, rows in tables if rows)


def nve_crystals(document: Document) -> str:
    keys = ("median_drift_meV_atom_ps", "largest_drift_meV_atom_ps")
    rows = []
    for name, model in document["models"].items():
        found, counts = model["summary"], model["summary"]["status"]
        sound = counts.get("done", 0) + counts.get("unfinished", 0)
        about = [sum(counts.values()), number(model["settings"]["temperature"], 4), number(found["picoseconds"]), sound]
        last = [found["drift_above_1_meV_atom_ps"], number(found["largest_deviation_meV_atom"], 2)]
        rows.append([name_of(name), *about, *(number(found[key], 2) for key in keys), *last])
    drifts = ["median drift, meV/atom/ps", "largest drift", "drift above 1", "largest deviation, meV/atom"]
    return table(["model", "crystals", "K at first", "ps", "not exploded", *drifts], rows)


def md_kill(document: Document) -> str:
    rows = [
        [row["format"], row["steps"], len(row["killed_after_steps"]), ", ".join(row["differences"]) or "none"]
        for row in document["rows"]
    ]
    return table(["trajectory", "steps", "kills", "differences from the run left in peace"], rows)


def finetune(document: Document) -> str:
    return errors((row["set"], row["model"], row) for row in document["rows"])


MAKERS = (accuracy, efs, acwf, dft_eos, solids, finetune, device, speed, md, training, relax)
MAKERS += (relax_equality, relax_faults, nve, nve_crystals, md_kill)
BLOCKS: dict[str, Callable[[Document], str]] = {make.__name__: make for make in MAKERS}
BLOCKS |= {"accuracy_teacher": accuracy, "acwf_teacher": acwf}

CAPTIONS = {
    "accuracy": "Mean absolute errors: energy in eV/atom, forces (length of the error vector) in eV/A, stress in GPa.",
    "accuracy_teacher": "The same of the teacher, which learned MPtrj and sAlex, and of a larger MatterSim.",
    "efs": "The same beside CHGNet, which learned MPtrj itself and whose energies contain the corrections of MP2020.",
    "acwf": "Equations of state of cubic oxides against the average of two all-electron codes, PBE.",
    "acwf_teacher": "The same of the teacher of both models, and of a larger MatterSim.",
    "dft_eos": "The same of one oxide, GPAW run by `m3pot.data.calculators:gpaw`.",
    "solids": "Elastic constants, phonons without LO-TO splitting; PBE in brackets: published, Cu's phonons by us.",
    "device": "On an accelerator: molecular dynamics of silicon (NVE, 1 fs), random crystals in batches; float32.",
    "speed": "Neighbour list, energy, forces and stress of MgO crystals through ASE, float32, models of equal size.",
    "training": "Training on energy, forces and stress, float32, batches of 32 random crystals. The shipped models' "
    "networks have two layers where MatGL's have three.",
    "relax": "Random crystals of 2 to 24 atoms, cell and positions, compilation included.",
    "relax_equality": "Perturbed crystals of the pool: a batch against one by one, and against ASE.",
    "relax_faults": "Broken input and kills.",
    "md": "Molecular dynamics of silicon at 300 K, 1 fs, float32.",
    "nve": "What molecular dynamics conserves.",
    "nve_crystals": "Constant energy from a hot start, float32.",
    "md_kill": "Molecular dynamics killed and resumed, bit by bit.",
    "finetune": "Before and after fine-tuning on oxides of five and more elements, other formulas tested.",
}


def origin(name: str, document: Document) -> str:
    """File, command and machine."""
    around = document["environment"]
    cores = around.get("usable_cores", around["cores"])
    machine = f"{around['processor']}, {cores} {'core' if cores == 1 else 'cores'}"
    kinds = [device.split(": ", 1)[1] for device in around["devices"] if not device.startswith("cpu")]
    machine = ", ".join([*kinds, machine])
    return f"From [{name}.json]({RESULTS}/{name}.json), `{document['command']}`, {machine}."


def draw_speed(document: Document, path: Path) -> None:
    """The one figure that no command draws."""
    from matplotlib.figure import Figure

    rows = document["rows"]
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for package in ("m3pot", "matgl"):
        atoms = [row["atoms"] for row in rows]
        axes.loglog(atoms, [row[f"{package}_ms"] for row in rows], "o-", label=NAMES.get(package, package))
    axes.set(xlabel="atoms", ylabel="ms for energy, forces and stress")
    axes.legend()
    figure.savefig(path, dpi=150)


def block(name: str, results: Path, drawing: bool) -> str:
    if name == "models":
        return models()
    path = results / f"{name}.json"
    if not path.exists():
        return ""
    document = json.loads(path.read_text())
    if drawing and name == "speed":
        draw_speed(document, path.with_suffix(".png"))
    figures = [*sorted(results.glob(f"{name}.png")), *sorted(results.glob(f"{name}_*.png"))]
    figures = [figure for figure in figures if figure.stem not in BLOCKS or figure.stem == name]
    images = "\n".join(f"![{figure.stem}]({RESULTS}/{figure.name})" for figure in figures)
    parts = (f"{CAPTIONS[name]} {origin(name, document)}", BLOCKS[name](document), images)
    return "\n\n".join(part for part in parts if part)


def render(text: str, results: Path, drawing: bool = False) -> str:
    """The README with its blocks made anew. Raises SystemExit for a block that no function makes."""

    def replaced(match: re.Match) -> str:
        name = match[1]
        if name not in BLOCKS and name != "models":
            raise SystemExit(f"Expected a block of {', '.join(('models', *BLOCKS))}, got {name}; rename it.")
        inside = block(name, results, drawing)
        return f"<!-- {name} -->\n" + (f"{inside}\n" if inside else "") + f"<!-- /{name} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", replaced, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / RESULTS)
    options = parser.parse_args()
    text = options.readme.read_text(encoding="utf-8")
    made = render(text, options.results, drawing=not options.check)
    if not options.check:
        options.readme.write_text(made, encoding="utf-8")
    elif made != text:
        print(f"{options.readme.name} does not show the results; run python benchmarks/figures.py.", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
