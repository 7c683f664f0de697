"""Structures per second in training against MatGL's trainer: model of equal size, same frames, same batch size.

    python benchmarks/training.py                                  # both packages in this environment (extra `peers`)
    python benchmarks/training.py --peer-python ~/matgl/bin/python # MatGL in an environment of its own

One worker process for each package trains on energies, forces and stresses of random crystals; whole epochs of the
two are interleaved. An epoch starts with neighbour lists in memory and ends with the last step; the first, with its
compilation, is reported apart, like reading and neighbour lists. Labels come from the package's own model: speed does
not depend on them. m3pot splits each batch over the cores as over several devices, as `JAX_NUM_CPU_DEVICES=2 m3pot
train` does; torch gives each operation to all cores.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from speed import m3pot_potential, matgl_model
from workers import RESULTS, Worker, serve, versions, write


def frames(count: int, path: Path) -> float:
    """Write that many labelled random crystals of 2 to 24 atoms, all elements; returns the atoms on average."""
    import ase.io
    import numpy as np
    from generated import random_crystals

    import m3pot

    labelled = m3pot.predict(random_crystals(count))
    ase.io.write(path, labelled, format="extxyz")
    return float(np.mean([len(crystal) for crystal in labelled]))


def m3pot_epochs(path: str, batch: int):
    """What ``m3pot train`` does between two validations."""
    import jax
    import numpy as np
    import optax

    from m3pot.data.batching import capacity_for, prefetch, stacked
    from m3pot.data.graphs import EdgeCache
    from m3pot.data.readers import read
    from m3pot.execution import numerics
    from m3pot.train.loss import LossWeights
    from m3pot.train.step import data_mesh, init_state, make_optimizer, make_step, place, replicate

    potential, size = m3pot_potential()
    potential = potential.astype(np.float32)
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


def matgl_epochs(path: str, batch: int):
    """MatGL's data set, loader and Lightning module, as its MGLPotentialTrainer puts them together."""
    import logging

    import lightning
    import torch
    from matgl.graph.data import collate_fn_pes
    from matgl.utils.training import MGLDatasetLoader, PotentialLightningModule
    from torch.utils.data import DataLoader

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model, size = matgl_model()
    start = time.perf_counter()
    data = MGLDatasetLoader.from_extxyz(
        path, element_types=model.element_types, save_cache=False, root=str(Path(path).parent / "matgl")
    )
    prepared = time.perf_counter() - start
    loader = DataLoader(data, batch_size=batch, shuffle=True, collate_fn=collate_fn_pes, num_workers=0)
    module = PotentialLightningModule(model=model, stress_weight=0.1, loss="huber_loss")

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


def work(package: str, path: str, batch: int, devices: int) -> None:
    os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)
    epoch, about = {"m3pot": m3pot_epochs, "matgl": matgl_epochs}[package](path, batch)

    def answer(number: int) -> dict:
        batches, seconds = epoch(number)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"batches": batches, "seconds": seconds, "peak_MB": peak}

    serve(about, answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of an environment with matgl")
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="structures per batch")
    parser.add_argument("--devices", type=int, default=len(os.sched_getaffinity(0)), help="of m3pot, on this CPU")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each package")
    parser.add_argument("--output", type=Path, default=RESULTS / "training.json")
    parser.add_argument("--worker", choices=["m3pot", "matgl"], help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.file, options.batch, options.devices)
        return

    from m3pot.cli.options import print_table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.extxyz"
        atoms = frames(options.frames, path)
        arguments = ["--file", str(path), "--batch", str(options.batch), "--devices", str(options.devices)]
        workers = {
            "m3pot": Worker(__file__, "m3pot", arguments=arguments),
            "matgl": Worker(__file__, "matgl", options.peer_python, arguments),
        }
        first = {name: worker.call(0) for name, worker in workers.items()}
        times: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(1, options.epochs + 1):
            for name, worker in workers.items():
                last = worker.call(number)
                times[name].append(last["seconds"])
                first[name]["peak_MB"] = last["peak_MB"]
    rows = [
        {
            "package": name,
            "structures_per_s": options.frames / statistics.median(times[name]),
            "best_structures_per_s": options.frames / min(times[name]),
            "first_epoch_s": first[name]["seconds"],
            "batches": first[name]["batches"],
            "peak_MB": first[name]["peak_MB"],
        }
        for name in workers
    ]
    result = {
        "what": "training on energy, forces and stress, float32, M3GNet 64 units 3 blocks",
        "workers": {name: worker.about for name, worker in workers.items()},
        "frames": options.frames,
        "mean_atoms": atoms,
        "batch": options.batch,
        "epochs": options.epochs,
        "rows": rows,
        "ratio": rows[0]["structures_per_s"] / rows[1]["structures_per_s"],
    }
    write(options.output, result)
    print_table(rows)


if __name__ == "__main__":
    main()
