"""``m3pot relax``: batched relaxation of structure files."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from m3pot.cli.options import (
    Debug,
    Device,
    Dtype,
    Files,
    Json,
    Model,
    Quiet,
    finish,
    print_json,
    print_table,
    progress,
    say,
)

app = typer.Typer()


def _option(*names: str, text: str, **more):
    return typer.Option(*names, help=text, **more)


@app.command()
def relax(
    files: Files,
    output: Annotated[
        Path, _option("--output", "-o", text="extxyz with all structures; a summary (.csv) lies beside it.")
    ] = Path("relaxed.extxyz"),
    fmax: Annotated[float, _option("--fmax", text="Largest force on an atom, eV/A.")] = 0.05,
    smax: Annotated[float, _option("--smax", text="Largest component of stress + pressure, GPa.")] = 0.1,
    steps: Annotated[int, _option("--steps", "-n", text="Most steps of one structure.")] = 500,
    cell: Annotated[
        Literal["free", "fixed", "isotropic", "shape", "volume"],
        _option("--cell", text="What may change of the cell; shape: at constant volume; volume: that alone."),
    ] = "free",
    mask: Annotated[
        str | None, _option("--mask", text="Strains that may change, of xx,yy,zz,yz,xz,xy.", show_default="all")
    ] = None,
    pressure: Annotated[float, _option("--pressure", "-P", text="External pressure, GPa.")] = 0.0,
    minimizer: Annotated[Literal["lbfgs", "fire"], _option("--minimizer", text="fire: the steps of ASE's.")] = "lbfgs",
    fix_symmetry: Annotated[bool, _option("--fix-symmetry", text="Keep the space group.")] = False,
    symprec: Annotated[float, _option("--symprec", text="Tolerance of the space group, A.")] = 0.01,
    repair: Annotated[bool, _option("--repair/--no-repair", text="Push atoms apart that clash at the start.")] = True,
    max_atoms: Annotated[int, _option("--max-atoms", text="Larger structures are refused.")] = 1000,
    max_edges: Annotated[
        int | None, _option("--max-edges", text="Neighbours in a batch: memory.", show_default="by device")
    ] = None,
    trajectory: Annotated[
        Path | None, _option("--trajectory", text="Folder for the path of every structure (slower).")
    ] = None,
    mattergen: Annotated[
        Path | None, _option("--mattergen", text="Folder for structures.extxyz and energies.npy of mattergen-evaluate.")
    ] = None,
    resume: Annotated[bool, _option("--resume", text="Go on where a run with this output was stopped.")] = False,
    engine: Annotated[
        Literal["batch", "ase"], _option("--engine", text="ase: one by one, with all constraints of ASE.")
    ] = "batch",
    cluster: Annotated[
        Literal["local", "slurm", "pbs", "sge", "lsf"] | None,
        _option("--cluster", text="Batches as dask tasks; queues are set up in dask's jobqueue.yaml."),
    ] = None,
    workers: Annotated[int, _option("--workers", text="Processes or jobs of the cluster.")] = 2,
    model: Model = None,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Relax structures, thousands at a time; each ends with a status and a reason of its own.

    Status: converged, max_steps, nan, clash, exploded, unsupported_element, too_large, failed. Exit code 1 if any
    structure is not converged.

    \b
    Examples:
      m3pot relax generated/*.cif -o relaxed.extxyz
      m3pot relax generated.zip --fmax 0.02 --steps 1000 --resume --mattergen for_mattergen
      m3pot relax LiFePO4.cif --pressure 10 --fix-symmetry --dtype float64
      m3pot relax generated/ --cluster slurm --workers 8
    """
    from m3pot.cli.files import read
    from m3pot.io.registry import load
    from m3pot.relaxation.options import Options, strain_mask
    from m3pot.relaxation.output import Output, describe, write_for_mattergen, write_trajectory
    from m3pot.relaxation.run import follow
    from m3pot.units import GPA

    options = Options(
        fmax=fmax,
        smax=smax * GPA,
        steps=steps,
        cell=cell,
        mask=strain_mask(mask),
        pressure=pressure * GPA,
        minimizer=minimizer,
        dtype=dtype,
        fix_symmetry=fix_symmetry,
        symprec=symprec,
        repair=repair,
        trajectory=trajectory is not None,
        max_atoms=max_atoms,
        max_edges=max_edges,
    )
    if resume and output.exists() and not output.with_name(output.name + ".journal").exists():
        say(f"{output} is complete; run without --resume to make it anew.", quiet)
        return
    entries, potential, calculator = read(files), load(model), None
    if engine == "ase":
        from m3pot.calculator import M3PotCalculator

        calculator = M3PotCalculator(potential, dtype=dtype)
    with (
        Output(output, describe(potential, options), resume=resume) as out,
        progress("relax", _count(files), quiet=quiet or json, unit="structures") as advance,
    ):
        if out.finished:
            say(f"{len(out.finished)} structures are done already.", quiet)
            advance(len(out.finished))
        for result in follow(entries, potential, options, out, calculator=calculator, cluster=cluster, workers=workers):
            if result is not None and trajectory:
                write_trajectory(trajectory, result)
            advance(1)
        rows = [out.rows[index] for index in sorted(out.rows)]
    if mattergen:
        write_for_mattergen(mattergen, output)
    if json:
        print_json(rows)
    elif not quiet:
        columns = ["name", "formula", "status", "steps", "energy_per_atom", "fmax", "smax_GPa", "volume_change"]
        print_table(rows[:20], columns)
        if len(rows) > 20:
            say(f"... and {len(rows) - 20} more in {output.with_suffix('.csv')}")
    failures = [(row["name"], f"{row['status']}: {row['reason']}") for row in rows if row["status"] != "converged"]
    finish(failures, len(rows))


def _count(files: list[str]) -> int | None:
    """Number of structures, for the progress bar; None if that is not known before they are read."""
    from m3pot.cli.files import find

    total = 0
    for path in find(files):
        if path.suffix in (".zip", ".traj", ".db", ".json", ".gz"):
            return None
        if path.suffix in (".xyz", ".extxyz"):
            with open(path) as file:
                try:
                    while line := file.readline().strip():
                        total += 1
                        for _ in range(int(line) + 1):
                            file.readline()
                except ValueError:
                    return None
        else:
            total += 1
    return total
