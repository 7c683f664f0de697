import collections

import numpy as np
import pytest
from ase.build import bulk
from ase.data import covalent_radii

from m3pot.data import generate, molecular, sample
from m3pot.data.crystal import (
    ELEMENTS,
    Crystal,
    Rejected,
    closest,
    from_atoms,
    is_binary_oxide,
    similar,
    to_atoms,
)
from m3pot.data.recipe import FROM_NOTHING, KINDS, UNIVERSAL, Source, draw, place
from m3pot.data.split import reduced_formula

CRYSTALS = [
    from_atoms(atoms)
    for atoms in (
        bulk("NaCl", "rocksalt", a=5.6),
        bulk("Cu", cubic=True),
        bulk("Si", cubic=True),
        bulk("GaAs", "zincblende", a=5.7, cubic=True),
        bulk("MgO", "rocksalt", a=4.2, cubic=True),
    )
]
PARENTS = Source(CRYSTALS, ["NaCl", "Cu", "Si", "GaAs", "MgO"], seed=3)
NACL = CRYSTALS[0]
ROCKSALT = from_atoms(bulk("NaCl", "rocksalt", a=5.6, cubic=True))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(a: Crystal, b: Crystal) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_similar_is_symmetric():
    assert all(a in similar(b) for a in ELEMENTS.tolist() for b in similar(a))
    assert similar(9) == [17, 35, 53]
    assert all(z not in similar(z) for z in ELEMENTS.tolist())


def test_binary_oxides_are_known():
    assert is_binary_oxide(np.array([8, 3, 8]))
    assert not is_binary_oxide(np.array([8, 8]))
    assert not is_binary_oxide(np.array([8, 3, 1]))


def test_closest_sees_images_and_is_infinite_for_far_atoms():
    assert closest(CRYSTALS[1]) == pytest.approx(3.61 / np.sqrt(2) / (2 * covalent_radii[29]))
    assert closest(Crystal(np.array([1]), np.zeros((1, 3)), np.eye(3) * 9)) == np.inf


def test_atoms_and_back():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.pbc = (True, True, False)
    assert to_atoms(from_atoms(atoms)) == atoms


def test_rattle_has_the_size_asked_for():
    crystal = sample.repeat(CRYSTALS[2], (5, 5, 5))
    moved = sample.rattle(crystal, rng(), 0.1).positions - crystal.positions
    assert moved.std() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("amplitude", [0.05, (0.01, 0.05)])
def test_strain_is_symmetric_and_bounded_and_moves_atoms_along(amplitude):
    strained = sample.strain(NACL, rng(), amplitude)
    tensor = np.linalg.solve(NACL.cell, strained.cell) - np.eye(3)
    np.testing.assert_allclose(tensor, tensor.T, atol=1e-12)
    assert 0 < np.abs(tensor).max() <= 0.05
    fractions = [np.linalg.solve(c.cell.T, c.positions.T) for c in (NACL, strained)]
    np.testing.assert_allclose(*fractions, atol=1e-12)


def test_compression_is_monotonic_and_follows_murnaghan():
    volumes = [abs(np.linalg.det(sample.compress(NACL, p).cell)) for p in (-2, 0, 5, 50, 5000)]
    assert volumes == sorted(volumes, reverse=True)
    assert volumes[1] == pytest.approx(abs(np.linalg.det(NACL.cell)))
    assert volumes[-1] == pytest.approx(volumes[1] / 2)
    modulus, step = 120 * (11.8 / sample.volume_per_atom(NACL)) ** 2.2, 1e-3
    slope = (sample.volume_ratio(NACL, step) - 1) / step
    assert -1 / slope == pytest.approx(modulus, rel=1e-3)


def test_repeat_is_that_of_ase():
    expected = to_atoms(CRYSTALS[3]).repeat((2, 1, 3))
    repeated = to_atoms(sample.repeat(CRYSTALS[3], (2, 1, 3)))
    np.testing.assert_allclose(repeated.positions, expected.positions, atol=1e-12)
    np.testing.assert_array_equal(repeated.numbers, expected.numbers)
    np.testing.assert_allclose(repeated.cell.array, expected.cell.array)


def test_heat_moves_atoms_apart_from_each_other_in_a_larger_cell():
    hot = sample.heat(NACL, rng(1))
    assert len(hot.numbers) >= 5
    assert closest(hot) >= 0.55
    with pytest.raises(Rejected, match="not periodic"):
        sample.heat(NACL._replace(pbc=(True, True, False)), rng())


def test_substitute_takes_a_similar_element_and_scales_by_radii():
    new = sample.substitute(NACL, rng(), old=17, jitter=0.0)
    assert set(new.numbers) - {11} < set(similar(17))
    scale = covalent_radii[new.numbers].sum() / covalent_radii[NACL.numbers].sum()
    np.testing.assert_allclose(new.cell, NACL.cell * scale)
    with pytest.raises(Rejected):
        sample.substitute(NACL._replace(numbers=np.array([3, 4])), rng(), old=200)


def test_decorated_crystals_have_new_elements_at_the_same_packing():
    def packing(crystal):
        return (covalent_radii[crystal.numbers] ** 3).mean() / sample.volume_per_atom(crystal)

    for seed in range(10):
        new = sample.decorate(NACL, rng(seed))
        assert len(np.unique(new.numbers)) == 2
        assert len(set(new.numbers) & set(NACL.numbers)) < 2
        assert 1 / 1.151 < packing(new) / packing(NACL) < 1 / 0.849
    slab = NACL._replace(cell=NACL.cell @ np.diag([1, 1, 9]))
    with pytest.raises(Rejected, match="vacuum"):
        sample.decorate(slab, rng())


def test_compounds_have_an_anion_and_oxides_are_not_cubic():
    """Cubic oxides are the ACWF benchmark."""
    wurtzite = from_atoms(bulk("ZnS", "wurtzite", a=3.8, c=6.2))
    made = [sample.compound(wurtzite, rng(seed)) for seed in range(30)]
    assert all(len(np.unique(new.numbers)) == 2 and len(new.numbers) == 4 for new in made)
    oxides = [new for new in made if 8 in new.numbers]
    assert 8 < len(oxides) < 22
    spheres = [(covalent_radii[new.numbers] ** 3).mean() / sample.volume_per_atom(new) for new in made]
    np.testing.assert_allclose(spheres, spheres[0])
    reasons = set()
    for seed in range(30):
        try:
            assert 8 not in sample.compound(ROCKSALT, rng(seed)).numbers
        except Rejected as reason:
            reasons.add(str(reason))
    assert reasons == {"cubic oxide"}
    with pytest.raises(Rejected, match="binary"):
        sample.compound(CRYSTALS[2], rng())


def test_ions_take_the_sites_of_one_element_and_touch_nothing():
    made = set()
    for seed in range(24):
        try:
            new = molecular.exchange(ROCKSALT, rng(seed))
        except Rejected:  # large ions in a small cell
            continue
        made.add(tuple(np.unique(new.numbers)))
        assert closest(new) > 0.7  # also within an ion: bond lengths of real molecules
        assert sample.volume_per_atom(new) > 5
        assert len(new.numbers) >= 4 + 4 * 2
        assert 4 in ((new.numbers == 11).sum(), (new.numbers == 17).sum())
    assert len(made) >= 6
    with pytest.raises(Rejected, match="no site"):
        molecular.exchange(CRYSTALS[1], rng())
    assert molecular.exchangeable(CRYSTALS[1].numbers) == []


def test_molecules_are_put_into_holes():
    roomy = sample.repeat(from_atoms(bulk("CsCl", "cesiumchloride", a=6.0)), (2, 2, 2))
    for seed in (0, 1, 2):
        new = molecular.insert(roomy, rng(seed))
        kept = np.isin(new.numbers, [55, 17])
        np.testing.assert_array_equal(new.numbers[kept], roomy.numbers)
        assert not kept.all()
        assert closest(new) > 0.7
    with pytest.raises(Rejected, match="not periodic"):
        molecular.insert(ROCKSALT._replace(pbc=(True, True, False)), rng())
    with pytest.raises(Rejected, match="no room"):
        molecular.insert(CRYSTALS[1], rng(3))


def test_every_ion_has_bonds_and_a_charge():
    for name, (charge, (numbers, positions)) in molecular.ions().items():
        assert charge in (1, -1, -2, -3, -4)
        assert len(numbers) == len(positions) >= 2
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 9 * np.eye(len(numbers))
        bonds = distances / (covalent_radii[numbers][:, None] + covalent_radii[numbers])
        assert 0.75 < bonds.min() < 1.15, name
        assert (bonds.min(axis=1) < 1.25).all(), name  # no atom is apart
    numbers, positions = molecular.ions()["P2O7"][1]
    assert sorted(numbers.tolist()) == [8] * 7 + [15] * 2
    bonds = np.linalg.norm(positions[numbers == 15][:, None] - positions[numbers == 8], axis=-1)
    np.testing.assert_allclose(np.sort(bonds)[:, :4], 1.54)  # two tetrahedra
    assert (np.sort(bonds)[:, 4] > 2).all()


def test_packed_molecules_are_dense_and_touch_nothing():
    made, reasons = [], set()
    for seed in range(24):
        try:
            made.append(molecular.pack(rng(seed), max_atoms=40))
        except Rejected as reason:
            reasons.add(str(reason))
    assert len(made) > 8
    assert "too few or too many atoms" in reasons
    for crystal in made:
        assert len(crystal.numbers) <= 40
        assert closest(crystal) > 0.6
        assert 3 < sample.volume_per_atom(crystal) < 100
        assert np.linalg.det(crystal.cell) > 0


def test_disorder_takes_out_mobile_atoms_and_mixes_metals():
    cobaltate = CRYSTALS[2]._replace(numbers=np.resize([3, 27, 8, 8], len(CRYSTALS[2].numbers)))
    whole = sample.repeat(cobaltate, (2, 2, 2))
    counts, metals = set(), set()
    for seed in range(20):
        new = sample.disorder(whole, rng(seed))
        counts.add((new.numbers == 3).sum() / (whole.numbers == 3).sum())
        metals |= set(new.numbers) - {3, 8}
        assert (new.numbers == 8).sum() == (whole.numbers == 8).sum()
        np.testing.assert_array_equal(new.cell, whole.cell)
    assert counts == {0, 0.25, 0.5, 0.75, 1}
    assert {27, 28, 26} <= metals
    lithium, reasons = from_atoms(bulk("Li", "bcc", a=3.5)), set()
    for seed in range(20):
        try:
            assert 0 < len(sample.disorder(lithium, rng(seed)).numbers) < 8
        except Rejected as reason:
            reasons.add(str(reason))
    assert reasons == {"nothing left"}
    with pytest.raises(Rejected, match="no mobile"):
        sample.disorder(from_atoms(bulk("GaAs", "zincblende", a=5.6)), rng())


def test_pushed_pair_is_close():
    for seed in range(5):
        pushed = sample.push_pair(CRYSTALS[2], rng(seed))
        assert 0.5 < closest(pushed) < 0.97


@pytest.mark.parametrize("lattice", generate.LATTICES)
def test_elements_have_a_sensible_volume(lattice):
    for number in (2, 6, 26, 61, 94):
        crystal = generate.element(number, lattice, rng(number))
        assert set(crystal.numbers) == {number}
        per_sphere = sample.volume_per_atom(crystal) / (2 * covalent_radii[number]) ** 3
        assert 0.2 < per_sphere < 12


def test_copper_is_found_in_its_own_structure():
    volumes = [sample.volume_per_atom(generate.element(29, "fcc", rng(k))) for k in range(50)]
    assert min(volumes) < 3.61**3 / 4 < max(volumes)
    assert 0.7 < min(volumes) / (3.61**3 / 4) < max(volumes) / (3.61**3 / 4) < 1.5


def test_dimers_span_the_short_range():
    ratios = [closest(generate.dimer(6, 8, rng(k))) for k in range(40)]
    assert all(0.6 <= ratio <= 2.5 or ratio == np.inf for ratio in ratios)
    assert min(ratios) < 0.75


def test_dense_atoms_keep_their_distance():
    made = 0
    for seed in range(10):
        try:
            crystal = generate.dense(rng(seed))
        except Rejected:
            continue
        made += 1
        assert closest(crystal) > 0.62
        assert np.linalg.det(crystal.cell) > 0
    assert made >= 5


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_random_crystals_are_symmetric():
    import spglib

    groups = set()
    for seed in range(5):
        try:
            crystal = generate.symmetric(rng(seed))
        except Rejected:
            continue
        fractional = crystal.positions @ np.linalg.inv(crystal.cell)
        found = spglib.get_symmetry_dataset((crystal.cell, fractional, crystal.numbers), symprec=1e-3)
        groups.add(found.number)
        assert closest(crystal) > 0.7
        assert 2 <= len(set(crystal.numbers)) <= 4
    assert len(groups - {1}) >= 2


def test_places_count_what_came_before():
    seen = collections.Counter()
    for n in range(200):
        kind, k = place(n, UNIVERSAL)
        assert k == seen[kind]
        seen[kind] += 1
    assert {kind: seen[kind] / 200 for kind in seen} == {
        "pool": 0.4,
        "hot": 0.25,
        "subst": 0.15,
        "rare": 0.125,
        "short": 0.075,
    }


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_item_depends_on_seed_and_number_only(kind):
    source = PARENTS if kind not in FROM_NOTHING else Source(seed=3)
    first = [draw(source, [kind], n) for n in range(4)]
    other = Source(source.crystals, source.names, seed=3)
    again = [draw(other, [kind], n) for n in reversed(range(4))][::-1]
    assert any(one.crystal is not None for one in first)
    for a, b in zip(first, again, strict=True):
        assert a.reason == b.reason
        assert a.group == b.group
        assert (a.crystal is None and b.crystal is None) or same(a.crystal, b.crystal)
    seeded = Source(source.crystals, source.names, seed=4)
    if kind != "pool":
        assert not all(
            a.crystal is not None and b.crystal is not None and same(a.crystal, b.crystal)
            for a, b in zip(first, (draw(seeded, [kind], n) for n in range(4)), strict=True)
        )


def test_groups_are_parents_or_formulas():
    for n in range(80):
        drawn = draw(PARENTS, UNIVERSAL, n)
        if drawn.crystal is not None:
            assert drawn.group in PARENTS.names or drawn.group == reduced_formula(drawn.crystal.numbers)
    assert [draw(PARENTS, ["rattle"], n).group for n in range(6)] == [*PARENTS.names, "NaCl"]


def test_new_compositions_are_no_binary_oxides_and_nothing_is_excluded():
    excluded = frozenset({"Cu", "Fe", "ClNa"})
    source = Source(CRYSTALS, PARENTS.names, excluded, seed=5)
    cycle = ["pool", "subst", "rare", "hot", "short", "dense", "element", "binary", "rattle"]
    rejected = collections.Counter()
    for n in range(1500):
        drawn = draw(source, cycle, n)
        if drawn.crystal is None:
            rejected[drawn.reason] += 1
            continue
        composition = reduced_formula(drawn.crystal.numbers)
        if drawn.kind == "short" and np.array_equal(drawn.crystal.cell, np.eye(3) * generate.BOX):
            continue  # a dimer
        assert composition not in excluded
        if drawn.kind in ("subst", "rare", "dense", "element", "binary"):
            assert not is_binary_oxide(drawn.crystal.numbers)
    assert rejected["excluded formula"] > 0
    assert rejected["binary oxide"] > 0


def test_small_parents_only_and_first():
    source = Source(CRYSTALS, PARENTS.names, max_atoms=4, max_changed=2)
    assert source.usable.tolist() == [0, 1]
    assert source.changed.tolist() == [0]
    assert draw(source, ["pool"], 2).reason == "no parents left"
    assert draw(Source(), ["rattle"], 0).reason == "no parent"


def test_the_recipe_has_not_changed():
    """Some draws of the recipe of the shipped models: with others their training set could not be made again."""
    source = Source(CRYSTALS, PARENTS.names, seed=20240607)
    for n, (kind, group, size) in {
        1: ("hot", "MgO", 25.00450910),
        3: ("subst", "GaAs", 54.75041801),
        8: ("short", "HPr", 29.49490248),
        13: ("rare", "PTi", 5.33026645),
        25: ("rare", "Ru", 3.94543885),
        28: ("short", "BLu", 34.75954010),
        59: ("rare", "NaNe", 4.29639228),
        108: ("short", "Pa", 135.46544837),
    }.items():
        drawn = draw(source, UNIVERSAL, n)
        assert (drawn.kind, drawn.group) == (kind, group)
        assert np.abs(drawn.crystal.positions).sum() == pytest.approx(size, rel=1e-7)
