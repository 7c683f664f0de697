"""``m3pot md`` and ``md-report``: molecular dynamics of one structure, and what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m3pot.cli.options import (
    INTERRUPTED,
    SOME_FAILED,
    Debug,
    Device,
    Dtype,
    File,
    Json,
    Model,
    Quiet,
    finish,
    print_json,
    print_table,
    progress,
    say,
)

if TYPE_CHECKING:
    from m3pot.simulate.report import Measured

app = typer.Typer()

_LINES = 20  # of the log, in the table at the end


def _option(*names: str, text: str, **more):
    return typer.Option(*names, help=text, **more)


@app.command()
def md(
    file: File,
    ensemble: Annotated[Literal["nve", "nvt", "npt"], _option("--ensemble", text="What is constant.")] = "nvt",
    temperature: Annotated[str, _option("--temperature", "-T", text="K; 300:900 is a ramp.")] = "300",
    pressure: Annotated[str, _option("--pressure", "-P", text="GPa, for npt; 0:10 is a ramp.")] = "0",
    timestep: Annotated[float, _option("--timestep", text="fs.")] = 1.0,
    steps: Annotated[int, _option("--steps", "-n", text="Length, a resumed part included.")] = 10_000,
    every: Annotated[int, _option("--every", text="Steps between frames.")] = 100,
    log_every: Annotated[
        int | None, _option("--log-every", text="Steps between lines of the log.", show_default="every / 10")
    ] = None,
    output: Annotated[
        Path | None,
        _option("--output", "-o", text="Trajectory: .extxyz, .traj or .h5.", show_default="FILE-md.extxyz"),
    ] = None,
    restart_every: Annotated[int, _option("--restart-every", text="Steps between restart files.")] = 1000,
    resume: Annotated[bool, _option("--resume", text="Go on where a run with this output stopped.")] = False,
    overwrite: Annotated[bool, _option("--overwrite", text="Replace the files of an earlier run.")] = False,
    seed: Annotated[int, _option("--seed", text="Of velocities and noise.")] = 0,
    thermostat: Annotated[Literal["langevin", "nose-hoover", "csvr"], _option("--thermostat", text="Of nvt, npt.")] = (
        "langevin"
    ),
    thermostat_time: Annotated[float, _option("--thermostat-time", text="Relaxation time in fs.")] = 100.0,
    cell: Annotated[
        Literal["free", "anisotropic", "isotropic"], _option("--cell", text="What npt changes of the cell.")
    ] = "free",
    pressure_time: Annotated[float, _option("--pressure-time", text="Period of the cell in fs.")] = 1000.0,
    supercell: Annotated[
        tuple[int, int, int], _option("--supercell", text="Repeat the cell first.", metavar="A B C")
    ] = (1, 1, 1),
    replicas: Annotated[int, _option("--replicas", text="Independent copies in one batch.")] = 1,
    ensemble_model: Annotated[
        list[str] | None, _option("--and-model", text="Further models: run on their mean; repeatable.")
    ] = None,
    max_disagreement: Annotated[
        float | None,
        _option("--max-disagreement", text="Stop when forces of the models differ by more, eV/A."),
    ] = None,
    model: Model = None,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Molecular dynamics; writes trajectory, log (.csv) and restart file (.restart.npz) side by side.

    A run that explodes or meets NaN stops with its last good frame (exit code 1).

    \b
    Examples:
      m3pot md LiFePO4.cif --temperature 800 --steps 20000 -o hot.traj
      m3pot md LiFePO4.cif --ensemble npt --temperature 800 --pressure 1 --steps 100000
      m3pot md NaCl.cif --supercell 3 3 3 --temperature 300:1500 --thermostat csvr --resume
    """
    from m3pot.cli.files import read_one
    from m3pot.io.registry import load
    from m3pot.simulate import md as simulate
    from m3pot.simulate.output import trajectory_paths
    from m3pot.units import GPA

    if min(supercell) < 1:
        raise ValueError(f"Expected --supercell of three numbers of at least 1, got {supercell}; give 2 2 2, say.")
    if ensemble != "npt" and pressure != "0":
        raise ValueError(f"--pressure {pressure} has no effect at constant volume; add --ensemble npt.")
    if resume and overwrite:
        raise ValueError("--resume and --overwrite were both given; choose one.")
    atoms = read_one(file).repeat(supercell)
    output = output or Path(f"{Path(file).name.split('.')[0]}-md.extxyz")
    trajectories = trajectory_paths(output, replicas)
    log, restart = output.with_suffix(".csv"), output.with_suffix(".restart.npz")
    present = [path for path in (*trajectories, log, restart) if path.exists()]
    if present and not (resume or overwrite):
        raise ValueError(f"{present[0]} exists; go on with --resume, replace it with --overwrite, or change --output.")
    if resume and not restart.exists():
        say(f"{restart} does not exist: starting from the beginning.", quiet)
    models = [load(name) for name in [model, *(ensemble_model or [])]]
    with progress(ensemble, steps, quiet=quiet or json, unit="steps") as advance:
        run = simulate(
            atoms,
            models[0] if len(models) == 1 else models,
            ensemble=ensemble,
            temperature=_range("--temperature", temperature),
            pressure=_range("--pressure", pressure, GPA),
            timestep=timestep,
            steps=steps,
            every=every,
            log_every=log_every,
            thermostat=thermostat,
            thermostat_time=thermostat_time,
            cell=cell,
            pressure_time=pressure_time,
            trajectory=output,
            log=log,
            restart_file=restart,
            restart_every=restart_every,
            resume=resume,
            replicas=replicas,
            seed=seed,
            max_disagreement=max_disagreement,
            dtype=dtype,
            progress=advance,
        )
    summary = {"status": run.status, "reason": run.reason, "step": run.step}
    summary |= {"steps_per_second": run.steps_per_second, "ns_per_day": run.ns_per_day}
    summary |= {"trajectories": list(map(str, trajectories)), "log": str(log), "restart": str(restart)}
    if json:
        print_json(summary)
    elif not quiet:
        if len(run.log["step"]):
            print_table(_lines(run.log, GPA))
        speed = f"{run.steps_per_second:.4g} steps/s, {run.ns_per_day:.3g} ns/day; "
        say(f"{run.step} steps, {speed if run.steps_per_second > 0 else ''}{output}")
    if run.status == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if run.status != "done":
        typer.echo(f"m3pot: {file}: {run.status}: {run.reason}", err=True)
        raise typer.Exit(SOME_FAILED)


def _range(option: str, text: str, unit: float = 1.0) -> float | tuple[float, float]:
    try:
        values = tuple(float(part) * unit for part in text.split(":"))
    except ValueError:
        values = ()
    if len(values) not in (1, 2):
        raise ValueError(f"Expected {option} as a number or first:last, got {text!r}; write 300 or 300:900.")
    return values[0] if len(values) == 1 else (values[0], values[1])


def _lines(log: dict, gpa: float) -> list[dict]:
    count = len(log["step"])
    chosen = sorted({round(k * (count - 1) / (_LINES - 1)) for k in range(_LINES)}) if count else []
    return [
        {
            "step": int(log["step"][k]),
            "time_fs": float(log["time"][k]),
            "T_K": float(log["temperature"][k].mean()),
            "E_pot_eV": float(log["potential"][k].mean()),
            "P_GPa": float(log["pressure"][k].mean()) / gpa,
            "V_A3": float(log["volume"][k].mean()),
            "conserved_eV": float(log["conserved"][k].mean()),
        }
        for k in chosen
    ]


@app.command()
def md_report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Trajectories of `m3pot md`; log and settings lie beside.")
    ],
    output: Annotated[Path, _option("--output", "-o", text="Folder for page, figures and numbers.")] = Path(
        "md-report"
    ),
    skip: Annotated[float | None, _option("--skip", text="Start that is left out, ps.", show_default="a tenth")] = None,
    radius: Annotated[float, _option("--radius", text="Of g(r), A.")] = 6.0,
    max_drift: Annotated[
        float, _option("--max-drift", text="Flag a conserved quantity that drifts more, meV/atom/ps.")
    ] = 1.0,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Averages with error bars, g(r), diffusion, vibrations and warnings of runs, as one HTML page.

    Also written: the figures (.png) and all numbers (report.json). Replicas of a run are taken together.

    \b
    Examples:
      m3pot md-report LiFePO4-md.extxyz
      m3pot md-report cold.h5 hot.h5 -o comparison --skip 5
    """
    from m3pot.cli.property_options import json_bytes
    from m3pot.io.checkpoint import write_atomically
    from m3pot.simulate.report import measure
    from m3pot.simulate.report_page import draw, page
    from m3pot.simulate.stored import load

    if not radius > 0 or not max_drift > 0 or (skip is not None and not skip >= 0):
        raise ValueError("Expected --radius and --max-drift above 0 and --skip of 0 or more; give such numbers.")
    done, failures = [], []
    with progress("md-report", len(runs), quiet=quiet or json, unit="runs") as advance:
        for run in runs:
            try:
                start = None if skip is None else 1000 * skip
                done.append(measure(load(run), skip=start, radius=radius, max_drift=max_drift))
            except (ValueError, OSError) as error:
                failures.append((run, str(error)))
            advance(1)
    pages = []
    for k, measured in enumerate(done):
        pages.append((measured, draw(measured)))
        label = f"{k}-{Path(measured.name).stem}" if len(done) > 1 else Path(measured.name).stem
        for name, data in pages[-1][1].items():
            write_atomically(output / f"{label}-{name}.png", data)
    if done:
        numbers = [measured.summary() | {"curves": measured.curves()} for measured in done]
        write_atomically(output / "report.json", json_bytes(numbers))
        write_atomically(output / "report.html", page(pages).encode())
    if json:
        print_json([measured.summary() for measured in done])
    elif not quiet:
        for measured in done:
            typer.echo(f"{measured.name}: {', '.join(f'{k} {v}' for k, v in measured.about.items() if v is not None)}")
            print_table(_quantities(measured))
            for text in (*measured.flags, *measured.notes):
                say(f"  {text}")
        if done:
            say(f"written to {output / 'report.html'}")
    finish(failures, len(runs))


def _quantities(measured: "Measured") -> list[dict]:
    rows = {name: value._asdict() for name, value in measured.averages.items()}
    if measured.drift is not None:
        rows["drift_meV_atom_ps"] = measured.drift._asdict()
    for element, found in measured.diffusion.items():
        value = {"mean": found["coefficient_cm2_s"], "error": found["error_cm2_s"]}
        rows[f"diffusion_{element}_cm2_s"] = value
    return [{"quantity": name, **value} for name, value in rows.items()]
