"""``m3pot eos``, ``elastic``, ``phonons`` and ``dimer``: properties of crystals and pairs, with figures."""

from typing import Annotated, Literal

import typer

from m3pot.cli.options import Debug, Device, File, Files, Json, Quiet, finish, print_json, print_table, progress, say
from m3pot.cli.property_options import (
    Dtype,
    Model,
    Output,
    Relax,
    Symprec,
    atoms_of,
    find_model,
    read_all,
    relaxed,
    show,
    write_rows,
)

app = typer.Typer()


@app.command()
def eos(
    files: Files,
    output: Output = None,
    strain: Annotated[float, typer.Option("--strain", help="Largest change of the volume, as a fraction.")] = 0.06,
    points: Annotated[int, typer.Option("--points", help="Volumes from one end to the other.")] = 7,
    relax: Relax = True,
    ions: Annotated[
        Literal["none", "ions", "shape"], typer.Option("--at-each", help="What relaxes at each volume.")
    ] = "none",
    model: Model = None,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Equation of state: volume V0, bulk modulus B0 and its pressure derivative B1 (Birch-Murnaghan).

    \b
    Examples:
      m3pot eos Si.cif
      m3pot eos crystals/ -o eos --strain 0.1 --points 11 --at-each ions
      m3pot eos Cu.cif --model ase.calculators.emt:EMT
    """
    from m3pot.properties.eos import eos as scan

    entries, failures, potential = read_all(files), [], find_model(model)
    readable = []
    for entry in entries:
        if entry.atoms is None:
            failures.append((entry.name, entry.reason))
        elif entry.atoms.cell.rank < 3 or not entry.atoms.pbc.all():
            failures.append(
                (entry.name, "it is not periodic in three directions; an equation of state needs a crystal.")
            )
        else:
            readable.append(entry)
    structures = [entry.atoms for entry in readable]
    if relax and structures:
        readable, structures = relaxed(readable, potential, failures, dtype)
    with progress("eos", points * len(structures), quiet=quiet or json, unit="volumes") as advance:
        curves = scan(structures, potential, strain=strain, points=points, relax=ions, dtype=dtype, progress=advance)
    rows = [{"name": entry.name, **curve.summary()} for entry, curve in zip(readable, curves, strict=True)]
    failures += [(row["name"], row["reason"]) for row in rows if row["status"] == "failed"]
    for row in rows:
        if row.get("inside") is False:
            say(f"{row['name']}: the minimum lies outside the scanned volumes; relax first or raise --strain.", quiet)
    if output:
        from m3pot.properties.plots import plot_eos

        details = [
            row | {"volumes": c.volumes, "energies": c.energies, "pressures": c.pressures}
            for row, c in zip(rows, curves, strict=True)
        ]
        write_rows(output, "eos", details, quiet or json)
        plot_eos(curves, output / "eos.png")
    show(rows, json, ["name", "formula", "V0_per_atom", "E0_per_atom", "B0_GPa", "B1", "residual_meV"])
    finish(failures, len(entries))


@app.command()
def elastic(
    files: Files,
    output: Output = None,
    strain: Annotated[float, typer.Option("--strain", help="Step of the six strains.")] = 0.005,
    relax: Relax = True,
    clamped: Annotated[bool, typer.Option("--clamped", help="Do not let the atoms follow the strain.")] = False,
    symprec: Symprec = 0.01,
    fmax: Annotated[float, typer.Option("--fmax", help="Of all relaxations, eV/A.")] = 0.001,
    model: Model = None,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Elastic tensor with symmetry, bulk, shear and Young's modulus, Poisson's ratio, stability (GPa).

    \b
    Examples:
      m3pot elastic Si.cif
      m3pot elastic crystals/*.cif -o elastic --json
    """
    from m3pot.properties.elastic import elastic as compute
    from m3pot.properties.plots import plot_tensor
    from m3pot.units import GPA

    entries, failures, rows, potential = read_all(files), [], [], find_model(model)
    with progress("elastic", len(entries), quiet=quiet or json, unit="crystals") as advance:
        for entry in entries:
            try:
                found = compute(
                    atoms_of(entry),
                    potential,
                    strain=strain,
                    relax=relax,
                    relax_ions=not clamped,
                    symprec=symprec,
                    fmax=fmax,
                    dtype=dtype,
                )
            except ValueError as error:
                failures.append((entry.name, str(error)))
            else:
                rows.append({"name": entry.name, **found.summary()})
                if found.reason:
                    say(f"{entry.name}: {found.reason}", quiet)
                if output:
                    title = found.atoms.get_chemical_formula()
                    plot_tensor(found.tensor / GPA, title, output / f"elastic_{len(rows)}_{title}.png")
            advance(1)
    if output:
        write_rows(output, "elastic", rows, quiet or json)
    if not json and len(rows) == 1:
        for line in rows[0]["tensor_GPa"]:
            typer.echo("".join(f"{value:9.2f}" for value in line))
    columns = ["name", "formula", "spacegroup", "bulk_GPa", "shear_GPa", "young_GPa", "poisson", "anisotropy", "stable"]
    show(rows, json, columns)
    finish(failures, len(entries))


@app.command()
def phonons(
    file: File,
    output: Output = None,
    supercell: Annotated[
        str | None, typer.Option("--supercell", help="Repeats as 4,4,4.", show_default="12 A or more")
    ] = None,
    displacement: Annotated[float, typer.Option("--displacement", help="A.")] = 0.01,
    relax: Relax = True,
    method: Annotated[
        Literal["displacements", "hessian"], typer.Option("--method", help="hessian: analytic second derivatives.")
    ] = "displacements",
    mesh: Annotated[float, typer.Option("--mesh", help="Density of q points, as a length in A.")] = 60.0,
    symprec: Symprec = 1e-4,
    model: Model = None,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Phonon bands, density of states, imaginary modes, heat capacity and entropy (needs m3pot[phonons]).

    \b
    Examples:
      m3pot phonons Si.cif -o phonons
      m3pot phonons NaCl.cif --supercell 3,3,3 --method hessian --json
    """
    from m3pot.cli.files import read_one
    from m3pot.properties.phonons import phonons as compute

    repeats = None if supercell is None else [int(part) for part in _three(supercell)]
    atoms, potential = read_one(file), find_model(model)
    with progress("phonons", None, quiet=quiet or json, unit="supercells") as advance:
        found = compute(
            atoms,
            potential,
            supercell=repeats,
            displacement=displacement,
            relax=relax,
            method=method,
            mesh=mesh,
            symprec=symprec,
            dtype=dtype,
            progress=advance,
        )
    row = {"name": file, **found.summary()}
    thermal = [
        {"temperature": t, "heat_capacity": c, "entropy": s, "free_energy_kJ": f}
        for t, c, s, f in zip(found.temperatures, found.heat_capacity, found.entropy, found.free_energy, strict=True)
    ]
    bands = [
        {"ends": ends, "distances": x, "frequencies": y}
        for ends, x, y in zip(found.band_labels, found.band_distances, found.band_frequencies, strict=True)
    ]
    details = row | {
        "bands": bands,
        "dos": {"frequencies": found.dos_frequencies, "states": found.dos},
        "thermal": thermal,
    }
    if output:
        from m3pot.properties.plots import plot_phonons, plot_thermal
        from m3pot.train.log import write_csv

        write_rows(output, "phonons", [details], quiet or json)
        write_csv(output / "thermal.csv", thermal)
        plot_phonons(found, output / "phonons.png")
        plot_thermal(found, output / "thermal.png")
    if json:
        print_json(details)
        return
    print_table([{"quantity": key, "value": str(value)} for key, value in row.items()])
    if not found.stable:
        say(f"{file}: {found.imaginary:.1%} of the modes are unstable, down to {found.lowest:.2f} THz.", quiet)


@app.command()
def dimer(
    pairs: Annotated[list[str], typer.Argument(metavar="PAIRS...", help="Elements as Li-F, or Li for Li-Li.")],
    output: Output = None,
    shortest: Annotated[
        float | None, typer.Option("--from", help="Shortest distance, A.", show_default="half the bond length")
    ] = None,
    longest: Annotated[float, typer.Option("--to", help="Longest distance, A.")] = 6.0,
    points: Annotated[int, typer.Option("--points", help="In equal ratios.")] = 100,
    model: Model = None,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Energy of two atoms along their distance: bond length, depth, and holes at short range.

    \b
    Examples:
      m3pot dimer Si Li-F O -o dimers
      m3pot dimer Fe --from 0.5 --to 5.5 --points 200 --json
    """
    import numpy as np

    from m3pot.properties.dimer import default_distances, dimers, pair_of

    if points < 3 or longest <= (shortest or 0):
        raise ValueError(f"Expected --from < --to and 3 points or more, got {shortest}, {longest} and {points}.")
    if shortest is None:
        grid = [default_distances(*pair_of(pair), points, longest) for pair in pairs]
    else:
        grid = [np.geomspace(shortest, longest, points)] * len(pairs)
    with progress("dimer", points * len(pairs), quiet=quiet or json, unit="points") as advance:
        curves = dimers(pairs, find_model(model), distances=grid, dtype=dtype, progress=advance)
    rows = [curve.summary() for curve in curves]
    details = [
        row | {"distances": c.distances, "energies": c.energies, "forces": c.forces}
        for row, c in zip(rows, curves, strict=True)
    ]
    if output:
        from m3pot.properties.plots import plot_dimers

        write_rows(output, "dimer", details, quiet or json)
        plot_dimers(curves, output / "dimer.png")
    show(details if json else rows, json, ["pair", "bond", "depth", "minima", "hole", "consistency"])
    finish([(row["pair"], row["reason"]) for row in rows if row["status"] == "failed"], len(rows))


def _three(text: str) -> list[str]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"Expected three whole numbers as 4,4,4, got {text!r}.")
    return parts
