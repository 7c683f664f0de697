"""Structures per second in training against MatGL's trainer: models of equal width, same frames, same batch size.

    python benchmarks/training.py                                  # both packages in this environment (extra `peers`)
    python benchmarks/training.py --peer-python ~/matgl/bin/python # MatGL in an environment of its own

MatGL's M3GNet stands beside the very same architecture in m3pot and beside the shipped model of its width, whose
networks have two layers where MatGL's have three. One worker process for each model trains on energies, forces and
stresses of random crystals; whole epochs of those of one width are interleaved. An epoch starts with neighbour lists in
memory and ends with the last step; the first, with its compilation, is reported apart, like reading and neighbour
lists. Labels come from the package's own model: speed does not depend on them. m3pot splits each batch over the cores
as over several devices, as `JAX_NUM_CPU_DEVICES=2 m3pot train` does; torch gives each operation to all cores.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from speed import m3pot_potential, matgl_model
from workers import RESULTS, Worker, peak_MB, serve, versions, write


def frames(count: int, path: Path, data: str) -> tuple[float, float]:
    """Write that many frames; returns atoms and edges (within 5 A) on average.

    They are random ones of the data, or random crystals of 2 to 24 atoms of all elements labelled by the default model.
    """
    import ase.io
    import numpy as np
    from generated import random_crystals

    import m3pot
    from m3pot.data.frames import to_atoms
    from m3pot.data.graphs import EdgeCache
    from m3pot.data.readers import read
    from m3pot.data.sources import load

    if data:
        labelled = load([data])
        picked = np.random.default_rng(0).choice(len(labelled), count, replace=False)
        labelled = [to_atoms(labelled, index) for index in np.sort(picked)]
    else:
        labelled = m3pot.predict(random_crystals(count))
    ase.io.write(path, labelled, format="extxyz")
    written = read([path])
    return float(written.n_atoms.mean()), float(EdgeCache.build(written, 5.0).n_edges.mean())


MATGL = {"matgl": 64, "matgl-128": 128}  # units
GROUPS = (("m3pot", "m3pot-s", "matgl"), ("m3pot-m", "matgl-128"))  # of one width, MatGL's last


def m3pot_epochs(path: str, batch: int, model: str):
    """What ``m3pot train`` does between two validations."""
    import jax
    import numpy as np
    import optax

    from m3pot.data.batching import capacity_for, prefetch, stacked
    from m3pot.data.graphs import EdgeCache
    from m3pot.data.readers import read
    from m3pot.execution import numerics
    from m3pot.io.registry import load
    from m3pot.train.loss import LossWeights
    from m3pot.train.step import data_mesh, init_state, make_optimizer, make_step, place, replicate

    potential = m3pot_potential()[0] if model == "m3pot" else load(model)
    potential, size = potential.astype(np.float32), sum(leaf.size for leaf in jax.tree.leaves(potential.params))
    start = time.perf_counter()
    cache = EdgeCache.build(read([path]), potential.cutoff)
    prepared = time.perf_counter() - start
    mesh, devices = data_mesh(), jax.local_device_count()
    budget = int(batch * cache.n_edges.mean() / devices)
    optimizer = make_optimizer(optax.constant_schedule(1e-3), potential.params, weight_decay=0.0, clip=10.0)
    capacity = capacity_for(cache, budget)
    with numerics("float32", "highest"):
        state = replicate(mesh, init_state(potential, optimizer))
        step = make_step(potential, optimizer, LossWeights(), mesh, decay=0.99)

    def epoch(number: int) -> tuple[int, float]:
        nonlocal state
        steps, start = 0, time.perf_counter()
        with numerics("float32", "highest"):
            source = stacked(cache, devices, edge_budget=budget, seed=0, epoch=number, capacity=capacity)
            for graphs in prefetch(source):
                state, metrics = step(state, *place(mesh, graphs))
                steps += 1
            jax.block_until_ready(metrics)
        return steps, time.perf_counter() - start

    return epoch, {"parameters": size, "prepare_s": prepared, "versions": versions("jax", "jaxlib"), "devices": devices}


def matgl_epochs(path: str, batch: int, model: str):
    """MatGL's data set, loader and Lightning module, as its MGLPotentialTrainer puts them together."""
    import logging

    import lightning
    import torch
    from matgl.graph.data import collate_fn_pes
    from matgl.utils.training import MGLDatasetLoader, PotentialLightningModule
    from torch.utils.data import DataLoader

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    network, size = matgl_model(MATGL[model])
    start = time.perf_counter()
    data = MGLDatasetLoader.from_extxyz(
        path, element_types=network.element_types, save_cache=False, root=str(Path(path).parent / model)
    )
    prepared = time.perf_counter() - start
    loader = DataLoader(data, batch_size=batch, shuffle=True, collate_fn=collate_fn_pes, num_workers=0)
    module = PotentialLightningModule(model=network, stress_weight=0.1, loss="huber_loss")

    class Clock(lightning.Callback):
        def on_train_epoch_start(self, *_) -> None:
            self.start = time.perf_counter()

        def on_train_epoch_end(self, *_) -> None:
            self.seconds = time.perf_counter() - self.start

    def epoch(number: int) -> tuple[int, float]:
        clock = Clock()  # leaves out what the trainer does before and after
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            inference_mode=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        trainer.fit(module, train_dataloaders=loader)
        return len(loader), clock.seconds

    about = {"parameters": size, "prepare_s": prepared, "versions": versions("matgl", "torch", "lightning")}
    return epoch, about | {"threads": torch.get_num_threads()}


def work(model: str, path: str, batch: int, devices: int) -> None:
    os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)
    epoch, about = (matgl_epochs if model in MATGL else m3pot_epochs)(path, batch, model)

    def answer(number: int) -> dict:
        batches, seconds = epoch(number)
        return {"batches": batches, "seconds": seconds, "peak_MB": peak_MB()}

    serve(about, answer)


def measured(models: tuple[str, ...], options, arguments: list[str]) -> tuple[dict, list[dict]]:
    """What the workers of these models, the last of which is MatGL's, say of themselves, and their speeds."""
    pythons = {name: options.peer_python if name in MATGL else sys.executable for name in models}
    workers = {name: Worker(__file__, name, python, arguments) for name, python in pythons.items()}
    first = {name: worker.call(0) for name, worker in workers.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(1, options.epochs + 1):
        for name, worker in workers.items():
            last = worker.call(number)
            times[name].append(last["seconds"])
            first[name]["peak_MB"] = last["peak_MB"]
    for worker in workers.values():
        worker.close()
    peer = statistics.median(times[models[-1]])
    rows = [
        {
            "model": name,
            "structures_per_s": options.frames / statistics.median(times[name]),
            "best_structures_per_s": options.frames / min(times[name]),
            "ratio": peer / statistics.median(times[name]),
            "parameters": workers[name].about["parameters"],
            "first_epoch_s": first[name]["seconds"],
            "batches": first[name]["batches"],
            "peak_MB": first[name]["peak_MB"],
        }
        for name in models
    ]
    return {name: worker.about for name, worker in workers.items()}, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of an environment with matgl")
    parser.add_argument("--data", default="", help="random frames of this data set or file, instead of random crystals")
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32, help="structures per batch")
    parser.add_argument("--devices", type=int, default=len(os.sched_getaffinity(0)), help="of m3pot, on this CPU")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each model")
    parser.add_argument("--output", type=Path, default=RESULTS / "training.json")
    parser.add_argument("--worker", choices=[*itertools.chain(*GROUPS)], help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.file, options.batch, options.devices)
        return

    from m3pot.cli.options import print_table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.extxyz"
        atoms, edges = frames(options.frames, path, options.data)
        arguments = ["--file", str(path), "--batch", str(options.batch), "--devices", str(options.devices)]
        sizes = [measured(models, options, arguments) for models in GROUPS]
    result = {
        "what": "training on energy, forces and stress, float32, M3GNet with 3 blocks",
        "data": options.data or "random crystals",
        "frames": options.frames,
        "mean_atoms": atoms,
        "mean_edges": edges,
        "batch": options.batch,
        "epochs": options.epochs,
        "workers": {name: about for workers, _ in sizes for name, about in workers.items()},
        "rows": (rows := [row for _, rows in sizes for row in rows]),
    }
    write(options.output, result)
    print_table(rows)


if __name__ == "__main__":
    main()
