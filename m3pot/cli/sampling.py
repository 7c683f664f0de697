"""``m3pot sample`` and ``m3pot label``: structures to learn from, and their labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3pot.cli.options import (
    BAD_INPUT,
    NAMED,
    SOME_FAILED,
    Debug,
    Device,
    Dtype,
    Files,
    Json,
    Model,
    Quiet,
    finish,
    print_json,
    progress,
    say,
)

if TYPE_CHECKING:
    from m3pot.data.crystal import Crystal
    from m3pot.data.label import Evaluate

app = typer.Typer()

_STRUCTURES = (".extxyz", ".xyz", ".traj")


@app.command()
def sample(
    output: Annotated[Path, typer.Option("--output", "-o", help="extxyz or traj, written when all is done.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILES...]", help="Parents: structure files, globs or folders; some kinds need none."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            "-k",
            help="pool (parents as they are), near (strained and displaced a little), rattle, strain, compress, hot, "
            "subst, decorate (elements at random), compound (small binary parents with other elements), ions "
            "(molecular ions and molecules put in), disorder (vacancies and mixed metals), pair, md (from parents), "
            "element, binary, dimer, dense, molecules (packed), random (from nothing), rare, short (mixtures), or "
            "universal (the mixture of the shipped models). Several, also separated by commas, take turns.",
            show_default="universal",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Items; a few are rejected.")] = 1000,
    first: Annotated[int, typer.Option("--first", min=0, help="Number of the first item, to go on later.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Item n depends on parents, kinds, seed and n only.")] = 0,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Validation set whose reduced formulas must not be sampled; repeatable."),
    ] = None,
    max_atoms: Annotated[
        int | None, typer.Option("--max-atoms", help="Largest parent that is used.", show_default="no limit")
    ] = None,
    max_changed: Annotated[
        int | None, typer.Option("--max-changed", help="Largest parent of all kinds but pool.", show_default="no limit")
    ] = None,
    displacement: Annotated[
        tuple[float, float], typer.Option("--displacement", help="Of rattle: range of the standard deviation, A.")
    ] = (0.02, 0.2),
    strain: Annotated[float, typer.Option("--strain", help="Of strain: largest component.")] = 0.05,
    pressure: Annotated[tuple[float, float], typer.Option("--pressure", help="Of compress and md: range, GPa.")] = (
        0.0,
        50.0,
    ),
    temperature: Annotated[tuple[float, float], typer.Option("--temperature", help="Of md: range, K.")] = (
        300.0,
        3000.0,
    ),
    steps: Annotated[int, typer.Option("--steps", help="Of md: length of a run.")] = 2000,
    every: Annotated[int, typer.Option("--every", help="Of md: steps between snapshots.")] = 500,
    timestep: Annotated[float, typer.Option("--timestep", help="Of md: fs.")] = 1.0,
    model: Model = None,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Structures to be labelled: changed crystals, molecular dynamics, and structures made from nothing.

    Every frame says its kind and its group, the parent crystal, by which a data set is to be split.
    New compositions are never cubic binary oxides, on which the ACWF benchmark is made.

    \b
    Examples:
      m3pot sample examples/*.cif --kind rattle,strain --count 200 -o frames.extxyz
      m3pot sample pool.extxyz --exclude validation.extxyz --count 50000 --seed 7 -o frames.extxyz
      m3pot sample pool.extxyz --kind md --temperature 300 5000 --pressure 0 100 -o hot.extxyz
      m3pot sample --kind dimer,dense --count 500 -o short.extxyz
    """
    from collections import Counter

    from m3pot.cli.results import writer
    from m3pot.data import recipe
    from m3pot.data.crystal import to_atoms

    if output.suffix not in _STRUCTURES:
        raise ValueError(f"Expected an output file ending in {', '.join(_STRUCTURES)}, got {output}; choose one.")
    kinds = dict(recipe.KINDS)
    cycle = _cycle(kind or ["universal"], (*kinds, "md"))
    if not files and not recipe.FROM_NOTHING.issuperset(cycle):
        needy = sorted({*cycle} - recipe.FROM_NOTHING)
        raise ValueError(f"The kinds {', '.join(needy)} need parents; give structure files.")
    if "md" in cycle:
        from m3pot.explore import dynamics
        from m3pot.io.registry import load

        options = {"steps": steps, "every": every, "timestep": timestep, "dtype": dtype}
        kinds["md"] = dynamics(load(model), temperature=temperature, pressure=pressure, **options)

    crystals, names, failures = _parents(files or [])
    if files and not crystals:
        finish(failures, len(failures))
    source = recipe.Source(
        crystals, names, _formulas(exclude or []), seed, max_atoms, max_changed, displacement, strain, pressure
    )
    made, rejected = Counter(), Counter()
    bar = progress("sample", count, quiet=quiet or json, unit="items")
    with writer(output) as write, bar as advance:
        for n in range(first, first + count):
            drawn = recipe.draw(source, cycle, n, kinds)
            advance(1)
            if drawn.crystal is None:
                rejected[f"{drawn.kind}: {drawn.reason}"] += 1
                continue
            made[drawn.kind] += 1
            atoms = to_atoms(drawn.crystal)
            atoms.info.update(kind=drawn.kind, group=drawn.group)
            write(atoms, {"name": f"{drawn.kind}/{n}", "status": "", "reason": ""})
        if not made:
            reasons = "; ".join(f"{reason} ({times})" for reason, times in rejected.most_common(5))
            raise ValueError(f"No structure was made of {count} items: {reasons}; choose other parents or kinds.")
    if json:
        print_json({"output": str(output), "frames": made.total(), "kinds": made, "rejected": rejected})
    else:
        say(f"{made.total()} frames in {output} ({_listed(made)})", quiet)
        if rejected:
            say(f"{rejected.total()} items rejected ({_listed(rejected)})", quiet)
    finish(failures, len(crystals) + len(failures))


@app.command()
def label(
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the labels (npz shards).")],
    calculator: Annotated[
        str | None,
        typer.Option("--calculator", "-c", help="ASE calculator as module:factory.", show_default="--model"),
    ] = None,
    calculator_args: Annotated[
        str,
        typer.Option(
            "--calculator-args", help="JSON of the factory's keyword arguments; {process} in it is the process id."
        ),
    ] = "{}",
    processes: Annotated[int, typer.Option("--processes", min=1, help="Calculators at work at the same time.")] = 1,
    and_model: Annotated[
        list[str] | None,
        typer.Option("--and-model", help="Further models on the same energy scale: label by the mean; repeatable."),
    ] = None,
    max_disagreement: Annotated[
        float,
        typer.Option(
            "--max-disagreement",
            help="Drop frames on which the models disagree by more, eV/A.",
            show_default="no limit",
        ),
    ] = float("inf"),
    max_edges: Annotated[
        int | None,
        typer.Option(
            "--max-edges", min=1, help="Of --model: neighbours in a batch, for memory.", show_default="by device"
        ),
    ] = None,
    max_force: Annotated[
        float, typer.Option("--max-force", help="Drop frames with a larger force, eV/A.", show_default="no limit")
    ] = float("inf"),
    max_pressure: Annotated[
        float, typer.Option("--max-pressure", help="Drop frames at a larger pressure, GPa.", show_default="no limit")
    ] = float("inf"),
    min_repulsion: Annotated[
        float,
        typer.Option("--min-repulsion", help="Drop dimers that attract below this part of the covalent radii."),
    ] = 0.0,
    shard: Annotated[int, typer.Option("--shard", min=1, help="Frames per file.")] = 1000,
    save_every: Annotated[
        float, typer.Option("--save-every", help="Seconds after which a shorter file is written.")
    ] = 300.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the folder ends.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="With --resume: try again what had failed.")] = False,
    model: Model = None,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Label structures by any ASE calculator (DFT, a teacher) or, in batches, by a model of this package or nequix.

    A frame that fails is recorded in failures.csv of the folder and stops nothing (exit code 1). After a crash or
    Ctrl-C the same command with --resume goes on. `m3pot train` reads the folder.

    \b
    Examples:
      m3pot label frames.extxyz -o labels/ --calculator ase.calculators.emt:EMT
      m3pot label frames.extxyz -o labels/ --calculator m3pot.data.calculators:gpaw
      m3pot label frames.extxyz -o labels/ --model m3pot-m --resume
      m3pot label frames.extxyz -o labels/ --model nequix-oam-1.nqx --max-force 50     # in batches too
      m3pot label frames.extxyz -o labels/ --model A.nqx --and-model B.safetensors --max-disagreement 1
    """
    import contextlib

    from m3pot.cli.files import find, read
    from m3pot.data import label as labels
    from m3pot.data.calculators import Calculators

    if calculator and (model or and_model):
        raise ValueError("--calculator and --model were both given; choose one.")
    if max_disagreement < float("inf") and not and_model:
        raise ValueError("--max-disagreement compares models; give others with --and-model.")
    limits = labels.Limits(max_force, max_pressure, min_repulsion)
    job: dict[str, Any] = {"inputs": [[path.name, _sha256(path)] for path in find(files)]}
    items = (labels.Item(*entry) for entry in read(files))
    bar = progress("label", None, quiet=quiet or json, unit="frames")
    chunk = 256 if processes == 1 else 16 * processes
    options = {"limits": limits, "shard": shard, "seconds": save_every, "resume": resume, "retry": retry}
    with contextlib.ExitStack() as stack:
        evaluate: Evaluate
        if calculator:
            job |= {"calculator": calculator, "arguments": calculator_args}
            evaluate = stack.enter_context(Calculators(calculator, calculator_args, processes))
        else:
            evaluate, more = _models([model, *(and_model or [])], dtype, max_edges, max_disagreement)
            job |= more
        advance = stack.enter_context(bar)
        outcome = labels.label(items, evaluate, output, job=job, chunk=chunk, advance=advance, **options)
    total = outcome.labelled + len(outcome.failures)
    if json:
        print_json({"output": str(output), **outcome._asdict()})
    else:
        say(f"{outcome.labelled} of {total} frames labelled in {output}", quiet)
        for name, reason in outcome.failures[:NAMED]:
            say(f"  {name}: {reason}")
        if len(outcome.failures) > NAMED:
            say(f"  ... and {len(outcome.failures) - NAMED} more in {output / 'failures.csv'}")
    if outcome.failures:
        raise typer.Exit(SOME_FAILED if outcome.labelled else BAD_INPUT)


def _cycle(wanted: list[str], known: tuple[str, ...]) -> list[str]:
    from m3pot.data.recipe import UNIVERSAL

    cycle: list[str] = []
    for kind in ",".join(wanted).split(","):
        if kind not in (*known, "universal"):
            raise ValueError(f"Expected --kind {', '.join(known)} or universal, got {kind!r}; choose some of them.")
        cycle += UNIVERSAL if kind == "universal" else [kind]
    return cycle


def _parents(files: list[str]) -> "tuple[list[Crystal], list[str], list[tuple[str, str]]]":
    """Crystals, names of their groups, and what could not be read."""
    from m3pot.cli.files import read
    from m3pot.data.crystal import from_atoms

    crystals, names, failures = [], [], []
    for entry in read(files):
        if entry.atoms is None:
            failures.append((entry.name, entry.reason))
        else:
            crystals.append(from_atoms(entry.atoms))
            names.append(str(entry.atoms.info.get("group") or Path(entry.name).name))
    return crystals, names, failures


def _formulas(files: list[str]) -> frozenset[str]:
    from m3pot.cli.files import read
    from m3pot.data.split import reduced_formula

    found = set()
    for entry in read(files):
        if entry.atoms is None:
            raise ValueError(
                f"--exclude: {entry.name} cannot be read ({entry.reason}) and so not be excluded; repair it."
            )
        found.add(reduced_formula(entry.atoms.numbers))
    return frozenset(found)


def _models(
    names: list[str | None], dtype: str, max_edges: int | None, max_disagreement: float
) -> "tuple[Evaluate, dict[str, Any]]":
    """Batched evaluation by a model of this package or the mean of several, and what tells this job from others."""
    import functools

    from m3pot.data.teachers import mean_of
    from m3pot.inference import predict
    from m3pot.io.registry import load

    teachers = [
        functools.partial(predict, potential=load(name), dtype=dtype, max_edges=max_edges, errors="keep")
        for name in names
    ]
    model, *others = (
        _sha256(Path(name)) if name and Path(name).is_file() else str(name or "default") for name in names
    )
    job: dict[str, Any] = {"model": model, "dtype": dtype}
    if not others:
        return teachers[0], job
    job |= {"and_model": others, "max_disagreement": str(max_disagreement)}
    return mean_of(teachers, limit=max_disagreement), job


def _sha256(path: Path) -> str:
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
