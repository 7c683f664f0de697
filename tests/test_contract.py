"""The doctor finds each illness: models and calculators with one planted flaw break exactly the law in question."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

import m3pot.contract
from m3pot.calculator import M3PotCalculator
from m3pot.contract import Report, doctor, structures
from m3pot.data.calculators import CalculatorError
from m3pot.graph import sum_receivers
from m3pot.math import safe
from m3pot.potential import Potential
from m3pot.structure import StructureError
from tests.helpers import random_potential


class Pairs(nn.Module):
    """Repulsive pairs that end smoothly at the cutoff, healthy or with one flaw."""

    flaw: str = ""
    cutoff: float = 5.0

    @nn.compact
    def __call__(self, graph, vectors):
        r = safe.norm(vectors)
        t = r / self.cutoff
        pair = (1 - t * t) * (1 - t * t) * (1 - t * t)
        if self.flaw == "cutoff":
            pair = 1 - t
        if self.flaw == "repulsion":
            pair = -pair
        if self.flaw == "rough":
            pair = pair * (1 + 0.01 * jnp.sin(r / 0.01))
        if self.flaw != "skin":
            pair = jnp.where(r < self.cutoff, pair, 0)
        energies = sum_receivers(jnp.where(graph.species[graph.receivers] > 0, pair, 0), graph)
        if self.flaw == "batch":
            energies = energies * (1 + 1e-3 * jnp.sum(graph.species > 0))
        if self.flaw == "padding":
            energies = energies * (1 + 1e-5 * len(graph.species))
        if self.flaw == "float32" and energies.dtype == jnp.float32:
            energies = energies * 1.01
        return energies


def pairs(flaw: str = "") -> Potential:
    offset = np.array(0.3 if flaw == "extensivity" else 0.0)
    return Potential(Pairs(flaw=flaw), {}, np.ones(95), np.zeros(95), offset, card={"elements": [1, 6, 29]})


class Ill(Calculator):
    """Lennard-Jones with one flaw."""

    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self, flaw: str):
        super().__init__()
        self.flaw, self.healthy = flaw, LennardJones(rc=5.0, smooth=True, sigma=1.8)

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.healthy.calculate(atoms, ["energy", "forces", "stress"])
        results = {name: self.healthy.results[name] for name in self.implemented_properties if name in results_of(self)}
        if self.flaw == "forces":
            results["forces"] = results["forces"] * 1.01
        if self.flaw == "stress" and "stress" in results:
            results["stress"] = -results["stress"]
        if self.flaw == "momentum":
            results["forces"] = results["forces"] + [0, 0, 0.01]
        if self.flaw == "translation":
            results["energy"] += 1e-2 * np.sin(atoms.positions[:, 0]).sum()
        if self.flaw == "wrapping":
            results["energy"] += 1e-2 * (atoms.positions.max() - atoms.positions.min()) * atoms.pbc.any()
        if self.flaw == "lattice" and "stress" in results and np.linalg.det(atoms.cell.array) < 0:
            results["stress"] = -results["stress"]
        if self.flaw == "rotation":
            results["energy"] += 1e-2 * np.ptp(atoms.positions[:, 2])
        if self.flaw == "permutation":
            results["energy"] += 1e-2 * (atoms.numbers * np.arange(len(atoms))).sum()
        if self.flaw == "supercell":
            results["energy"] += 0.05 * len(atoms) ** 2
        self.results = results


def results_of(calc: Ill) -> dict:
    return calc.healthy.results


def verdicts(report: Report) -> dict[str, str]:
    return {outcome.law: outcome.verdict for outcome in report.outcomes}


def test_healthy_potentials_pass():
    for potential in (pairs(), random_potential("tensorflow", units=4, blocks=1)):
        report = doctor(potential)
        found = verdicts(report)
        assert report.ok
        found.pop("extensivity")
        found.pop("repulsion")
        assert set(found.values()) == {"pass"}
    assert verdicts(doctor(pairs()))["repulsion"] == "pass"


@pytest.mark.parametrize("flaw", ["batch", "padding", "skin", "float32", "cutoff", "repulsion", "extensivity"])
def test_flaws_of_potentials(flaw):
    report = doctor(pairs(flaw))
    found = verdicts(report)
    warning = flaw in ("cutoff", "repulsion", "extensivity")
    assert found[flaw] == ("warn" if warning else "fail")
    assert report.ok is warning


@pytest.mark.parametrize(
    "flaw",
    ["forces", "stress", "momentum", "translation", "wrapping", "lattice", "rotation", "permutation", "supercell"],
)
def test_flaws_of_calculators(flaw):
    report = doctor(Ill(flaw))
    assert verdicts(report)[flaw] == "fail"
    assert not report.ok


def test_a_healthy_calculator_passes_and_the_table_can_be_read():
    report = doctor(Ill(""))
    assert report.ok
    assert set(verdicts(report).values()) == {"pass"}
    head, *lines, summary = str(report).splitlines()
    assert head.startswith("law")
    assert all(outcome.law in line for outcome, line in zip(report.outcomes, lines, strict=True))
    assert summary == f"{len(lines)} laws: {len(lines)} pass"


class Bare:
    """Works as ``atoms.calc`` without any class of ASE's: without stress, or only for crystals, or not rotated."""

    def __init__(self, lack: str):
        self.lack, self.healthy = lack, LennardJones(rc=5.0, smooth=True, sigma=1.8)

    def get_potential_energy(self, atoms=None, force_consistent=False):
        if self.lack == "open boundaries" and not atoms.pbc.all():
            raise RuntimeError("crystals only")
        if self.lack == "left-handed cells" and np.linalg.det(atoms.cell.array) < 0:
            raise RuntimeError("right-handed cells only")
        if self.lack == "silicon" and 14 in atoms.numbers:
            raise NotImplementedError("no Si")
        return self.healthy.get_potential_energy(atoms)

    def get_forces(self, atoms=None):
        return self.healthy.get_forces(atoms)

    def get_stress(self, atoms=None):
        if self.lack == "stress":
            raise NotImplementedError
        return self.healthy.get_stress(atoms)


def test_a_calculator_of_any_class():
    report = doctor(Bare(""), elements=["Cu"])
    assert set(verdicts(report).values()) == {"pass"}
    assert report.notes == ()


@pytest.mark.parametrize(
    ("lack", "laws", "note"),
    [
        ("stress", {"stress"}, "stress not measured: the calculator gives none"),
        ("open boundaries", {"repulsion"}, "molecule left out: RuntimeError: crystals only"),
    ],
)
def test_what_a_calculator_lacks_is_not_measured(lack, laws, note):
    report = doctor(Bare(lack))
    found = verdicts(report)
    assert {law for law, verdict in found.items() if verdict == "not measured"} == laws
    assert set(found.values()) == {"pass", "not measured"}
    assert note in report.notes
    assert str(report).splitlines()[-len(report.notes) :] == list(report.notes)
    assert report.ok


def test_structures_that_a_law_cannot_use_are_named():
    report = doctor(Bare("left-handed cells"))
    assert "lattice not measured on crystal: RuntimeError: right-handed cells only" in report.notes
    assert verdicts(report)["lattice"] == "not measured"


def test_unknown_elements_are_one_sentence_with_the_remedy():
    with pytest.raises(CalculatorError, match=r"crystal of .*no Si.*--elements Cu,Ag"):
        doctor(Bare("silicon"))
    assert doctor(Bare("silicon"), elements=["Cu", "Ag"]).ok
    with pytest.raises(ValueError, match="symbols of elements, got Cu, Qq"):
        doctor(Bare(""), elements=["Cu", "Qq"])
    with pytest.raises(StructureError, match="does not know: Ag"):
        doctor(pairs(), elements=["Cu", "Ag"])


def test_a_rough_energy_is_differentiated_in_short_steps():
    """The derivative is right: the doctor must not accuse it of what a long step cannot follow."""
    rough = M3PotCalculator(pairs("rough"), dtype="float64")
    crystal, evaluate = structures([29])["crystal"], m3pot.contract._through_ase(rough)
    (result,) = evaluate([crystal])
    assert max(m3pot.contract._slope_errors(evaluate, crystal, result, 1e-2)) > 1e-3
    assert doctor(rough, elements=["Cu"]).ok


@pytest.mark.parametrize("elements", [[14], [1, 8], range(1, 95)])
def test_structures_use_elements_of_the_model(elements):
    for atoms in structures(elements).values():
        assert isinstance(atoms, Atoms)
        assert set(atoms.numbers) <= set(elements)


def test_nan_is_a_failure():
    potential = pairs()
    shift = np.array(potential.shift)
    shift[:] = np.nan
    broken = Potential(potential.model, {}, potential.scale, shift, potential.offset, card=potential.card)
    assert not doctor(broken).ok


def test_the_name_leads_here():
    import m3pot as package

    assert package.doctor is m3pot.contract.doctor
