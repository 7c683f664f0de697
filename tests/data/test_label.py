import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from m3pot.data import readers
from m3pot.data.calculators import CalculatorError, Calculators, compute, make_calculator
from m3pot.data.label import Item, Limits, label

EMT_FACTORY = "ase.calculators.emt:EMT"
FRAGILE = """
import os
from ase.calculators.emt import EMT

class Fragile(EMT):
    def __init__(self, marker="", **options):
        super().__init__(**options)
        self.marker = marker

    def calculate(self, atoms=None, *arguments, **options):
        if self.marker:
            with open(self.marker, "a") as file:
                file.write("x")
        if atoms.info.get("name") == "fatal":
            os._exit(1)
        if atoms.info.get("name") == "slow":
            import time
            time.sleep(600)
        super().calculate(atoms, *arguments, **options)
"""


def metals(count: int) -> list[Item]:
    """EMT metals, each rattled in its own way, of two parents."""
    items = []
    for k in range(count):
        atoms = bulk(("Cu", "Al")[k % 2], cubic=True)
        atoms.rattle(0.1, seed=k)
        atoms.info.update(name=f"frame {k}", group=("Cu", "Al")[k % 2], kind="rattle")
        items.append(Item(f"metals@{k}", atoms))
    return items


BAD = [
    Item("unread", None, "the file is empty."),
    Item("iron", bulk("Fe")),
    Item("nan", Atoms("Cu", positions=[[np.nan, 0, 0]], cell=np.eye(3) * 3, pbc=True)),
    Item("none", Atoms()),
]


def emt(structures):
    return [compute(atoms, EMT()) for atoms in structures]


def never(structures):
    raise AssertionError("nothing was left to be labelled")


def test_labels_are_those_of_the_calculator_and_can_be_read(tmp_path):
    items = metals(5)
    outcome = label(items, emt, tmp_path, job={"calculator": "emt"}, shard=2)
    assert outcome == (5, [])
    assert len(list(tmp_path.glob("shard-*.npz"))) == 3
    frames = readers.read(tmp_path)
    assert frames.name.tolist() == [f"frame {k}" for k in range(5)]
    assert frames.group.tolist() == ["Cu", "Al", "Cu", "Al", "Cu"]
    for k, item in enumerate(items):
        atoms = item.atoms.copy()
        atoms.calc = EMT()
        assert frames.energy[k] == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(frames[k].forces, atoms.get_forces())
        np.testing.assert_allclose(frames.stress[k], atoms.get_stress(voigt=False))
        np.testing.assert_array_equal(frames[k].positions, atoms.positions)
    with np.load(tmp_path / "shard-00000.npz") as arrays:
        assert arrays["kind"].tolist() == ["rattle"] * 2
        assert arrays["index"].tolist() == [0, 1]


def test_failures_are_recorded_and_stop_nothing(tmp_path):
    items = [BAD[0], *metals(2), *BAD[1:], *metals(1)]
    outcome = label(items, emt, tmp_path, job={}, shard=2)
    assert outcome.labelled == 3
    reasons = dict(outcome.failures)
    assert list(reasons) == ["unread", "iron", "nan", "none"]
    assert reasons["unread"] == "the file is empty."
    assert "NotImplementedError" in reasons["iron"]
    assert "not finite" in reasons["nan"]
    rows = (tmp_path / "failures.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows[1].startswith("0,unread,")
    assert len(readers.read(tmp_path)) == 3


def test_a_batch_that_fails_is_done_one_by_one(tmp_path):
    def brittle(structures):
        if any(atoms.info["name"] == "frame 2" for atoms in structures):
            raise MemoryError("too much")
        return emt(structures)

    outcome = label(metals(4), brittle, tmp_path, job={})
    assert outcome == (3, [("metals@2", "MemoryError: too much")])


def test_nothing_is_labelled_twice(tmp_path):
    label([*metals(2), BAD[1]], emt, tmp_path, job={"calculator": "emt"})
    with pytest.raises(ValueError, match=r"holds labels already; add --resume"):
        label(metals(3), emt, tmp_path, job={"calculator": "emt"})
    with pytest.raises(ValueError, match=r"another job \(calculator differ\)"):
        label(metals(3), emt, tmp_path, job={"calculator": "dft"}, resume=True)
    counted = []
    outcome = label(
        [*metals(2), BAD[1]], never, tmp_path, job={"calculator": "emt"}, resume=True, advance=counted.append
    )
    assert outcome.labelled == 2
    assert sum(counted) == 3


def test_what_had_failed_is_tried_again_on_request(tmp_path):
    items = metals(2)
    assert label(items, never, tmp_path, job={}).labelled == 0
    assert len(list(tmp_path.glob("shard-*.npz"))) == 1
    assert label(items, emt, tmp_path, job={}, resume=True, retry=True) == (2, [])
    assert len(readers.read(tmp_path)) == 2


def test_interrupted_keeps_what_is_done(tmp_path):
    def interrupted(structures):
        yield from emt(structures[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(metals(4), interrupted, tmp_path, job={})
    seen = []

    def rest(structures):
        seen.extend(atoms.info["name"] for atoms in structures)
        return emt(structures)

    assert label(metals(4), rest, tmp_path, job={}, resume=True) == (4, [])
    assert seen == ["frame 2", "frame 3"]


def test_labels_beyond_the_limits_are_failures(tmp_path):
    squeezed = bulk("Cu", a=2.6)
    squeezed.rattle(0.2, seed=1)
    overlap = Atoms("Cu2", positions=[[5, 5, 5], [5, 5, 6]], cell=np.eye(3) * 15, pbc=True)
    items = [*metals(1), Item("squeezed", squeezed), Item("overlap", overlap)]

    def attracting(structures):
        results = emt(structures)
        results[-1].calc.results["forces"] = np.array([[0, 0, 1.0], [0, 0, -1.0]])
        return results

    outcome = label(items, attracting, tmp_path, job={}, limits=Limits(pressure=30, repulsion=0.7))
    assert outcome.labelled == 1
    reasons = dict(outcome.failures)
    assert reasons["squeezed"].startswith("pressure of ")
    assert reasons["overlap"] == "attraction of two atoms that overlap"
    limits = Limits(force=1e-3)
    outcome = label(items, emt, tmp_path / "other", job={}, limits=limits)
    assert dict(outcome.failures)["metals@0"].startswith("force of ")


@pytest.mark.parametrize(
    ("factory", "arguments", "sentence"),
    [
        ("EMT", "{}", "Expected a calculator as module:factory"),
        ("no.such:EMT", "{}", "gives no calculator .ModuleNotFoundError"),
        ("ase.calculators.emt:Nothing", "{}", "gives no calculator .AttributeError"),
        (EMT_FACTORY, "{", "are not JSON"),
        (EMT_FACTORY, "[1]", "as a JSON object"),
        ("builtins:dict", "{}", "to return an ASE calculator, got dict"),
    ],
)
def test_no_calculator(factory, arguments, sentence):
    with pytest.raises(CalculatorError, match=sentence):
        make_calculator(factory, arguments)


def test_gpaw_is_pbe_in_plane_waves(monkeypatch):
    made = types.SimpleNamespace(
        GPAW=lambda **settings: types.SimpleNamespace(get_potential_energy=None, settings=settings)
    )
    monkeypatch.setitem(sys.modules, "gpaw", made)
    settings = make_calculator("m3pot.data.calculators:gpaw", '{"ecut": 300, "convergence": {"energy": 1e-6}}').settings
    assert settings["xc"] == "PBE"
    assert settings["mode"] == {"name": "pw", "ecut": 300}
    assert settings["convergence"] == {"energy": 1e-6}
    monkeypatch.setitem(sys.modules, "gpaw", None)
    with pytest.raises(CalculatorError, match=r"m3pot\[dft\]"):
        make_calculator("m3pot.data.calculators:gpaw")


def test_calculator_gets_its_arguments():
    assert make_calculator(EMT_FACTORY, '{"label": "{process}"}').label == str(os.getpid())


@pytest.fixture
def fragile(tmp_path, monkeypatch) -> Path:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


def test_processes_survive_the_death_of_one(fragile):
    items = metals(4)
    items[1].atoms.info["name"] = "fatal"
    with Calculators("fragile:Fragile", processes=2) as calculators:
        outcome = label(items, calculators, fragile / "labels", job={})
    assert outcome == (3, [("metals@1", "the calculator's process died")])
    expected = emt([items[3].atoms])[0]
    assert readers.read(fragile / "labels").energy[-1] == pytest.approx(expected.get_potential_energy())


def test_kill_9_loses_only_the_unwritten(fragile):
    script = """
from tests.data.test_label import label, metals
from m3pot.data.calculators import Calculators
items = metals(4)
items[3].atoms.info["name"] = "slow"
with Calculators("fragile:Fragile", '{"marker": "calls"}') as calculators:
    label(items, calculators, "labels", job={}, shard=2)
"""
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(root)})
    try:
        deadline = time.monotonic() + 900
        while not (Path("calls").exists() and len(Path("calls").read_text()) == 4):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (fragile / "labels" / ".shard-00001-half.npz").write_bytes(b"cut off")
    seen = []

    def rest(structures):
        seen.extend(structures)
        return emt(structures)

    assert label(metals(4), rest, "labels", job={}, resume=True) == (4, [])
    assert len(seen) == 2
    assert not list((fragile / "labels").glob(".shard-*"))
