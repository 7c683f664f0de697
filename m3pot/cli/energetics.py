"""``m3pot neb`` and ``formation``: energies between structures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from m3pot.cli.options import SOME_FAILED, Debug, Device, Files, Json, Quiet, finish, say
from m3pot.cli.property_options import (
    Dtype,
    Model,
    Output,
    Relax,
    find_model,
    json_bytes,
    read_all,
    relaxed,
    show,
    write_rows,
)

app = typer.Typer()


@app.command()
def neb(
    start: Annotated[str, typer.Argument(metavar="START", help="Structure file.")],
    end: Annotated[str, typer.Argument(metavar="END", help="The same atoms in the same order, moved.")],
    output: Output = None,
    images: Annotated[int, typer.Option("--images", help="Of the path, both ends included.")] = 7,
    fmax: Annotated[float, typer.Option("--fmax", help="Largest force across the path, eV/A.")] = 0.03,
    steps: Annotated[int, typer.Option("--steps", "-n", help="Most steps.")] = 500,
    relax: Annotated[bool, typer.Option("--relax/--no-relax", help="Relax the ends first.")] = True,
    climb: Annotated[bool, typer.Option("--climb/--no-climb", help="Climb to the saddle point.")] = True,
    model: Model = None,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Barrier between two structures by the nudged elastic band (exit code 1 if not converged).

    \b
    Examples:
      m3pot neb vacancy_a.cif vacancy_b.cif -o hop --images 9
    """
    from m3pot.cli.files import read_one
    from m3pot.properties.neb import neb as compute

    found = compute(
        read_one(start),
        read_one(end),
        find_model(model),
        images=images,
        relax=relax,
        climb=climb,
        fmax=fmax,
        steps=steps,
        dtype=dtype,
    )
    row = found.summary()
    if output:
        import ase.io

        from m3pot.cli.files import replacing
        from m3pot.properties.plots import plot_barrier

        write_rows(output, "neb", [row | {"energies": found.energies, "distances": found.distances}], quiet or json)
        with replacing(output / "neb.extxyz") as temporary:
            ase.io.write(temporary, list(found.images), format="extxyz")
        plot_barrier(found, output / "neb.png")
    show([row], json, list(row))
    if not found.converged:
        say(f"m3pot: the path is not converged in {steps} steps (fmax {found.fmax:.3g} eV/A); raise --steps.")
        raise typer.Exit(SOME_FAILED)


@app.command()
def formation(
    files: Files,
    reference: Annotated[
        list[str],
        typer.Option(
            "--reference",
            "-r",
            help="Structures of elements and competing phases, or a JSON file of phases with energies; repeatable.",
        ),
    ],
    relax: Relax = True,
    save: Annotated[
        Path | None, typer.Option("--save-references", help="Keep the energies of the references as JSON.")
    ] = None,
    model: Model = None,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Formation energy and distance to the hull of references computed with the same model (eV/atom).

    A JSON file of references states its scale, the model that it was made with; another one is refused.

    \b
    Examples:
      m3pot formation NaCl.cif --reference Na.cif --reference Cl2.cif
      m3pot formation generated/ --reference phases/ --save-references hull.json
      m3pot formation more/ --reference hull.json
    """
    from m3pot.benchmark.contender import contenders
    from m3pot.io.registry import find
    from m3pot.properties.formation import formation as compute
    from m3pot.properties.formation import read_references, references_document

    (contender,) = contenders([model or find().stem])
    potential, scale = contender.load(), f"{contender.identity}, {'relaxed' if relax else 'as given'}"
    known = [phase for path in reference if path.endswith(".json") for phase in read_references(path)]
    others = [path for path in reference if not path.endswith(".json")]
    failures: list[tuple[str, str]] = []
    known += _phases(read_all(others), potential, scale, relax, dtype, failures) if others else []
    if failures:
        raise ValueError(f"The reference {failures[0][0]} cannot be used: {failures[0][1]}")
    entries = read_all(files)
    phases = _phases(entries, potential, scale, relax, dtype, failures)
    found = compute(phases, known)
    if save:
        from m3pot.io.checkpoint import write_atomically

        write_atomically(save, json_bytes(references_document(known)))
    rows = [result._asdict() for result in found]
    failures += [(row["name"], row["reason"]) for row in rows if row["reason"]]
    show(rows, json, ["name", "formula", "formation_energy", "hull_distance"])
    finish(failures, len(entries))


def _phases(
    entries: list[Any], potential: Any, scale: str, relax: bool, dtype: str, failures: list[tuple[str, str]]
) -> list[Any]:
    from collections import Counter

    from m3pot.properties.formation import Phase
    from m3pot.properties.points import evaluator

    failures += [(entry.name, entry.reason) for entry in entries if entry.atoms is None]
    entries = [entry for entry in entries if entry.atoms is not None]
    structures = [entry.atoms for entry in entries]
    if relax and entries:
        entries, structures = relaxed(entries, potential, failures, dtype)
    phases = []
    for entry, atoms in zip(entries, evaluator(potential, dtype=dtype)(structures), strict=True):
        if atoms.calc is None:
            failures.append((entry.name, atoms.info["reason"]))
        else:
            composition = dict(Counter(atoms.get_chemical_symbols()))
            phases.append(Phase(entry.name, composition, atoms.get_potential_energy(), scale))
    return phases
