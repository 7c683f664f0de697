"""Files of a run: input order, resumption after any interruption, and what mattergen-evaluate reads."""

import csv
import io
import json
from typing import NamedTuple

import ase.io
import numpy as np
import pytest
from ase import Atoms

from m3pot.relaxation import Options, Relaxed
from m3pot.relaxation.output import Output, ResumeError, describe, frame_text, write_for_mattergen
from m3pot.relaxation.run import follow
from tests.relaxation.helpers import morse, problems

OPTIONS = Options(fmax=0.02, smax=2e-4, dtype="float64", max_edges=1024)


class Entry(NamedTuple):
    name: str
    atoms: Atoms | None
    reason: str = ""


def entries() -> list[Entry]:
    table = problems()
    broken = table["oxide"].copy()
    broken.positions[0] = np.nan
    found = [Entry(name, atoms) for name, atoms in table.items()]
    found.insert(1, Entry("unreadable", None, "not a structure"))
    found.insert(3, Entry("broken", broken))
    return found


class Killed(BaseException):
    pass


def run(path, *, resume=False, stop=None, options=OPTIONS):
    """Relax everything; ``stop`` ends after so many results as ``kill -9`` would, without a word."""
    output = Output(path, describe(morse(), options), resume=resume)
    worked = 0
    try:
        with output:
            for _ in follow(entries(), morse(), options, output):
                worked += 1
                if worked == stop:
                    raise Killed
    except Killed:
        pass
    return worked


def read(path):
    with open(path.with_suffix(".csv")) as file:
        return ase.io.read(path, ":"), list(csv.DictReader(file))


def test_frames_and_rows_keep_the_order_of_the_input(tmp_path):
    path = tmp_path / "relaxed.extxyz"
    run(path)
    frames, rows = read(path)
    names = [entry.name for entry in entries()]
    assert [row["name"] for row in rows] == names
    assert [atoms.info["name"] for atoms in frames] == [name for name in names if name != "unreadable"]
    assert rows[1]["status"] == "failed"
    assert rows[1]["reason"] == "not a structure"
    assert rows[3]["status"] == "nan"
    for atoms in frames:
        assert (atoms.calc is None) == (atoms.info["status"] == "nan")
        if atoms.calc:
            row = next(row for row in rows if row["name"] == atoms.info["name"])
            assert float(row["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
            assert atoms.info["fmax"] == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=1e-6)
    assert not (tmp_path / "relaxed.extxyz.journal").exists()


@pytest.mark.parametrize("text", ["nan", "12", "T", "", "a b", 'two\nlines of "C:\\x"', "_JSON x", "1 2"])
def test_texts_come_back_as_they_were(text):
    frame = frame_text(Relaxed(problems()["metal"], "nan", reason=text), text)
    (atoms,) = ase.io.read(io.StringIO(frame), ":", format="extxyz")
    assert [atoms.info[key] for key in ("status", "reason", "name")] == ["nan", text, text]


def test_resumption_repeats_nothing_and_loses_nothing(tmp_path):
    whole, broken = tmp_path / "whole.extxyz", tmp_path / "broken.extxyz"
    total = run(whole)
    assert total == len(entries())
    done = run(broken, stop=3)
    journal = tmp_path / "broken.extxyz.journal"
    with open(journal, "a") as file:  # as if killed in the middle of a line
        file.write('{"index": 5, "row": {"na')
    broken.write_text(broken.read_text()[:-40])
    done += run(broken, resume=True, stop=2)
    done += run(broken, resume=True)
    assert done == total
    for a, b in zip(*(read(path)[0] for path in (whole, broken)), strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)
        assert a.info["status"] == b.info["status"]
    assert read(whole)[1] == read(broken)[1]


def test_another_run_is_not_taken_up(tmp_path):
    path = tmp_path / "relaxed.extxyz"
    run(path, stop=1)
    other = Options(fmax=0.03, smax=2e-4, dtype="float64", max_edges=1024)
    with pytest.raises(ResumeError, match="fmax"):
        run(path, resume=True, options=other)
    lines = (tmp_path / "relaxed.extxyz.journal").read_text().split("\n")
    header = json.loads(lines[0]) | {"model": "another"}
    (tmp_path / "relaxed.extxyz.journal").write_text("\n".join([json.dumps(header), *lines[1:]]))
    with pytest.raises(ResumeError, match="model"):
        run(path, resume=True)
    with pytest.raises(ValueError, match="extxyz"):
        Output(tmp_path / "relaxed.cif", {})


def test_mattergen_gets_structures_and_energies_in_step(tmp_path):
    path = tmp_path / "relaxed.extxyz"
    run(path)
    count = write_for_mattergen(tmp_path / "mattergen", path)
    structures = ase.io.read(tmp_path / "mattergen" / "structures.extxyz", ":")
    energies = np.load(tmp_path / "mattergen" / "energies.npy")
    good = [atoms for atoms in read(path)[0] if atoms.calc]
    assert count == len(structures) == len(energies) == len(good) == len(problems())
    for atoms, energy, source in zip(structures, energies, good, strict=True):
        assert atoms == source
        assert energy == source.get_potential_energy()
