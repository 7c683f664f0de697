"""Models of the package nequix (JAX, equinox) as a :class:`Potential`: batches, relaxation, dynamics, all that we have.

Nequix: T. Koker et al., arXiv:2508.16067; https://github.com/atomicarchitects/nequix, MIT. Its code runs, not ours, so
it must be installed; of its modules only ``nequix.model`` is used, without kernels.
"""

import dataclasses
import functools
import inspect
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m3pot.execution import numerics
from m3pot.graph import Graph
from m3pot.io.checkpoint import CheckpointError
from m3pot.potential import Potential

SUFFIX = ".nqx"


@dataclasses.dataclass(frozen=True)
class Nequix:
    """A nequix model in the shape of our Flax modules: ``cutoff`` and ``apply``.

    A static argument of compiled functions: models are equal, and share what is compiled, if their configurations are.
    """

    cutoff: float  # A
    elements: tuple[int, ...]  # atomic numbers in the order of the model's own species
    config: str  # JSON, the first line of the file
    appetite: ClassVar[int] = 4  # a neighbour takes so many times the memory of M3GNet's, or more: smaller batches

    def apply(self, variables: dict[str, Any], graph: Graph, vectors: Float[Array, "e 3"]) -> Float[Array, " n"]:
        """Energy of each atom in eV, references included; ``variables["params"]`` lists the arrays of the module.

        ``vectors``, r_ij = x_sender - x_receiver in A, are nequix's displacements as they stand. Its radial functions
        vanish from the cutoff on, and with them the messages, whose networks have no bias. Padding atoms pass for
        atoms of the first element that are joined to themselves only.
        """
        index = np.zeros(max(self.elements) + 1, np.int32)
        index[list(self.elements)] = range(len(self.elements))
        module = jax.tree.unflatten(jax.tree.structure(_module(self.config)), variables["params"])
        species = jnp.asarray(index)[graph.species]
        return module.node_energies(vectors, species, graph.senders, graph.receivers)[:, 0]


def load_nequix(path: str | os.PathLike[str]) -> Potential:
    """Read a ``.nqx`` file: a line of JSON (the configuration), then the arrays as ``.npy``. No pickle is read.

    Importing nequix sets JAX's precision of float32 products to "highest" for the process; our calls choose their own.
    Raises CheckpointError for another file, ModuleNotFoundError without nequix.
    """
    path, (equinox, _) = Path(path), _packages()
    try:
        with path.open("rb") as file, numerics("float32"):  # as stored
            config = file.readline().decode().strip()
            fields = json.loads(config)
            cutoff, elements = float(fields["cutoff"]), tuple(map(int, fields["atomic_numbers"]))
            arrays = equinox.tree_deserialise_leaves(file, _module(config))
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(
            f"{path} is not a {SUFFIX} model that the installed nequix can read ({reason}); "
            "fetch it again, or install the version that wrote it."
        ) from error
    return Potential(
        Nequix(cutoff, elements, config),
        [np.asarray(array) for array in jax.tree.leaves(arrays)],
        scale=np.ones(95, np.float32),
        shift=np.zeros(95, np.float32),
        offset=np.zeros((), np.float32),
        card={"name": path.stem, "elements": sorted(elements), "provenance": "a file of the package nequix"},
    )


def describe_nequix(potential: Potential) -> dict[str, Any]:
    """Number of parameters, configuration and card of a model of :func:`load_nequix`."""
    count = sum(array.size for array in potential.params)
    return {"parameters": count, "model": {"Nequix": json.loads(potential.model.config)}, "card": potential.card}


@functools.cache
def _module(config: str) -> Any:
    """The equinox module that a configuration describes, with shapes in place of its arrays.

    As ``nequix.model.load_model`` makes it, but that draws random parameters first, which takes longer than all else.
    """
    equinox, module = _packages()
    fields = json.loads(config)
    own = {name: fields[name] for name in inspect.signature(module.__init__).parameters if name in fields}
    own |= {"n_species": len(fields["atomic_numbers"]), "atom_energies": None, "kernel": False}  # None: in the arrays
    with numerics("float32"):  # as stored, whoever asks first
        return equinox.filter_eval_shape(functools.partial(module, **own), jax.random.key(0))


def _packages() -> tuple[Any, Any]:
    """The package equinox and nequix's class of models."""
    try:
        import equinox  # ty: ignore[import-not-found]
        from nequix.model import Nequix as Module  # ty: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Models of nequix need that package ({error}); pip install equinox && pip install --no-deps nequix."
        ) from error
    return equinox, Module
