"""``m3pot md``: molecular dynamics of one structure."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from m3pot.cli.options import (
    INTERRUPTED,
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
    resume: Annotated[bool, _option("--resume", text="Go on where a run with this output stopped.")] = False,
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
    from m3pot.units import GPA

    atoms = read_one(file).repeat(supercell)
    output = output or Path(f"{Path(file).name.split('.')[0]}-md.extxyz")
    models = [load(name) for name in [model, *(ensemble_model or [])]]
    restart = output.with_suffix(".restart.npz")
    if output.exists() and not resume:
        say(f"{output} is replaced (--resume would go on).", quiet)
    if resume and not restart.exists():
        say(f"{restart} does not exist: starting from the beginning.", quiet)
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
            log=output.with_suffix(".csv"),
            restart_file=restart,
            resume=resume,
            replicas=replicas,
            seed=seed,
            max_disagreement=max_disagreement,
            dtype=dtype,
            progress=advance,
        )
    summary = {"status": run.status, "reason": run.reason, "step": run.step}
    summary |= {"steps_per_second": run.steps_per_second, "ns_per_day": run.ns_per_day}
    summary |= {"trajectory": str(output), "log": str(output.with_suffix(".csv")), "restart": str(restart)}
    if json:
        print_json(summary)
    elif not quiet:
        print_table(_lines(run.log, GPA))
        say(f"{run.step} steps, {run.steps_per_second:.4g} steps/s, {run.ns_per_day:.3g} ns/day; {output}")
    if run.status == "interrupted":
        raise typer.Exit(INTERRUPTED)
    finish([] if run.status == "done" else [(file, f"{run.status}: {run.reason}")], 1)


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
