import json

import pytest

from m3pot.properties.formation import Phase, formation, read_references, references_document

SCALE = "toy"
REFERENCES = [
    Phase("Na", {"Na": 1}, -1.0, SCALE),
    Phase("Na, squeezed", {"Na": 2}, -1.5, SCALE),
    Phase("Cl2", {"Cl": 2}, -4.0, SCALE),
    Phase("NaCl", {"Na": 1, "Cl": 1}, -7.0, SCALE),
]


def test_heat_and_hull():
    salt, mix = formation(
        [Phase("a", {"Na": 2, "Cl": 2}, -13.0, SCALE), Phase("b", {"Na": 3, "Cl": 1}, -9.0, SCALE)], REFERENCES
    )
    assert salt.formula == "NaCl"
    assert salt.formation_energy == pytest.approx((-13 + 2 + 4) / 4)
    assert salt.hull_distance == pytest.approx(0.25)  # NaCl of the references lies 1 eV lower for four atoms
    assert mix.formation_energy == pytest.approx((-9 + 3 + 2) / 4)
    assert mix.hull_distance == pytest.approx((-9 - (-7 - 2)) / 4)
    assert mix.decomposition == pytest.approx({"NaCl": 0.5, "Na": 0.5})


def test_below_the_hull():
    (found,) = formation([Phase("new", {"Na": 1, "Cl": 1}, -8.0, SCALE)], REFERENCES)
    assert found.hull_distance == pytest.approx(-0.5)


def test_mixed_scales_are_refused():
    with pytest.raises(ValueError, match="one scale, got Materials Project and toy"):
        formation([Phase("x", {"Na": 1}, -1.0, "Materials Project")], REFERENCES)


def test_an_element_without_reference():
    (found,) = formation([Phase("x", {"K": 1, "Cl": 1}, -7.0, SCALE)], REFERENCES)
    assert "no reference for K" in found.reason
    assert found.hull_distance != found.hull_distance


def test_the_file(tmp_path):
    path = tmp_path / "hull.json"
    path.write_text(json.dumps(references_document(REFERENCES)))
    assert read_references(path) == REFERENCES
    path.write_text('{"phases": 3}')
    with pytest.raises(ValueError, match="not a file of reference phases"):
        read_references(path)
