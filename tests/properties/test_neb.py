import pytest
from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from m3pot.properties.neb import neb
from m3pot.structure import StructureError


def ends():
    start = fcc100("Al", (2, 2, 2), vacuum=6.0)
    add_adsorbate(start, "Au", 1.7, "hollow")
    start.set_constraint(FixAtoms(mask=start.get_tags() > 0))
    end = start.copy()
    end.positions[-1, 0] += end.cell[0, 0] / 2
    return start, end


def test_a_hop_on_a_surface():
    found = neb(*ends(), EMT(), images=5, fmax=0.05)
    assert found.converged
    assert 0.2 < found.forward < 0.7  # eV; ASE's tutorial finds 0.37 with a relaxing surface
    assert found.backward == pytest.approx(found.forward, abs=0.01)  # both ends are hollow sites
    assert found.energies.argmax() == 2
    assert found.energies[0] == 0
    assert (found.distances[1:] > found.distances[:-1]).all()


def test_ends_must_match():
    start, end = ends()
    with pytest.raises(StructureError, match="same atoms in the same order"):
        neb(start, end[::-1], EMT())
