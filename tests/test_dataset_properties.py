"""What holds of filters, splits and pairs whatever the crystals are (section 2)."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lib.core import published
from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.datasets.pairs import TWIN, PairSampler, first_of_each, most_of_each, validation_pairs
from lib.datasets.polymorphs import element_counts, element_shares, funnel, group_sizes, polymorph_groups
from lib.datasets.prototypes import prototypes
from lib.datasets.splits import split_proof, three_way_split
from lib.symmetry.packed import PackedUnits
from lib.symmetry.wyckoff import AsymmetricUnit, Site, positions

SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # on a busy machine
settings.register_profile("quick", max_examples=20, derandomize=True, database=None, **SLOW)
settings.load_profile("quick")
ELEMENTS = [5, 13, 22, 28, 42, 73, 74]
GROUPS = (1, 123, 221, 225)  # of the crystals that have sites


@st.composite
def tables(draw, with_sites=False):
    """Groups of 1 to 12 structures of binary and ternary formulas, several of one chemical system, with rare elements,
    energies that may be equal, and numbers of atoms from 2 to 12; with sites, each on positions of a group."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    species, energies, groups, units = [], [], [], []
    for _ in range(draw(st.integers(6, 40))):
        kinds = np.sort(rng.choice(ELEMENTS, rng.integers(2, 4), replace=False, p=np.array([8, 8, 8, 8, 8, 8, 1]) / 49))
        counts = rng.integers(1, 5, len(kinds))
        for _ in range(rng.integers(1, 13)):
            species.append(np.repeat(kinds, counts))
            energies.append(round(float(rng.normal()), draw(st.sampled_from([1, 6]))))
            groups.append(int(rng.choice(GROUPS)))
    order = rng.permutation(len(species))
    n_sites = [len(species[i]) for i in order]
    table = CrystalTable.pack(
        id=[f"c{i}" for i in range(len(order))],
        lattice=np.tile(4 * np.eye(3), (len(order), 1, 1)),
        frac_coords=rng.random((sum(n_sites), 3)),
        species=np.concatenate([species[i] for i in order]),
        n_sites=n_sites,
        formation_energy=[energies[i] for i in order],
        space_group=[groups[i] for i in order],
        energy_kind="made up",
    )
    if with_sites:
        for row, group in enumerate(table.space_group.tolist()):
            numbers = np.unique(table.species_of(row)).tolist()
            places = rng.integers(0, min(3, len(positions(group))), len(numbers)).tolist()
            sites = (Site(z, p, np.zeros(positions(group)[p].n_free)) for z, p in zip(numbers, places, strict=True))
            units.append(AsymmetricUnit(table.lattice[row], group, tuple(sites)))
        vars(table)["asymmetric_units"] = PackedUnits.of(units)
    return table


@given(tables(), st.integers(1, 6), st.sampled_from([0.0, 0.02, 0.1]), st.booleans(), st.sampled_from([None, 6, 8]))
def test_what_the_funnel_leaves_meets_every_filter_at_once(table, size, rare, gap, most):
    rule = {"group_rule": "size_and_gap" if gap else "size", "min_group_gap": 0.5, "max_group_size": most}
    limits = published.FUNNEL | {"min_group_size": size, "rare_fraction": rare, "energy_window": (-2, 2)} | rule
    try:
        left, steps = funnel(table, **limits)
    except BadInput:
        return  # nothing meets them
    assert set(left.id) <= set(table.id) and steps.structures.iloc[-1] == len(left)
    assert left.n_sites.min() >= 4 and np.abs(left.formation_energy).max() < 2
    assert group_sizes(left).min() >= size and (most is None or group_sizes(left).max() <= most)
    counts = element_counts(left)
    assert counts[counts > 0].min() >= rare * len(left)
    whole = polymorph_groups(table)
    for formula, rows in polymorph_groups(left).items():
        if gap and most is None:
            assert (np.diff(left.formation_energy[rows]) * left.n_sites[rows[0]]).max(initial=0) >= 0.5
        if most and not rare and not gap and len(rows) == most:
            within = [row for row in whole[formula] if abs(table.formation_energy[row]) < 2]
            assert {left.id[rows[0]], left.id[rows[-1]]} == {table.id[within[0]], table.id[within[-1]]}


def test_the_reference_asks_for_groups_of_five_and_a_gap():
    crystals = [([5, 73, 73, 73], e) for e in (0, 0.001, 0.002, 0.003, 0.0045)]  # gaps of at most 6 meV a cell
    crystals += [([13, 73, 73, 73], e) for e in (0, 0.001, 0.002, 0.003, 0.006)]  # one of 12
    crystals += [([22, 73, 73, 73], e) for e in (0, 1, 2, 3)]
    table = CrystalTable.of_cells(
        [(4 * np.eye(3), np.random.default_rng(0).random((4, 3)), species) for species, _ in crystals],
        id=[f"c{i}" for i in range(len(crystals))],
        formation_energy=[energy for _, energy in crystals],
        space_group=[1] * len(crystals),
        energy_kind="made up",
    )
    assert set(funnel(table, **published.REFERENCE_FUNNEL)[0].formula) == {"Al1Ta3"}


@given(tables(), st.sampled_from([0.1, 0.2, 0.3]), st.integers(0, 100))
def test_no_formula_leaks_and_the_seed_decides(table, fraction, seed):
    try:
        sets, again = (three_way_split(table, fraction, fraction, np.random.default_rng(seed)) for _ in range(2))
    except BadInput:
        assume(False)
    formulas = [set(table.reduced_formula[rows]) for rows in sets]
    assert sum(map(len, formulas)) == len(set.union(*formulas))
    assert sorted(np.concatenate(sets)) == list(range(len(table)))
    assert all(map(np.array_equal, sets, again))


@settings(max_examples=5)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.2]))
def test_elements_stay_within_three_hundredths_of_their_share(seed, fraction):
    rng = np.random.default_rng(seed)
    pairs = [(a, b, m, n) for a in ELEMENTS for b in ELEMENTS if a < b for m in range(1, 7) for n in range(1, 7)]
    pairs = [pair for pair in pairs if np.gcd(*pair[2:]) == 1]
    rows = [row for row, size in zip(pairs, rng.integers(7, 40, len(pairs)), strict=True) for _ in range(size)]
    n_sites = np.array([m + n for *_, m, n in rows])
    table = CrystalTable(
        id=np.arange(len(rows)).astype(str),
        lattice=np.zeros((len(rows), 3, 3)),
        frac_coords=np.zeros((n_sites.sum(), 3)),
        species=np.concatenate([[a] * m + [b] * n for a, b, m, n in rows]).astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(n_sites)]),
        formation_energy=np.zeros(len(rows)),
        space_group=np.ones(len(rows), dtype=int),
        energy_kind="made up",
    )
    train, validation, test = (table.take(r) for r in three_way_split(table, fraction, fraction, rng))
    shares = element_shares({"train": train, "validation": validation, "test": test})
    assert np.abs(shares.sub(shares.train, axis=0)).to_numpy().max() < 0.03
    assert len(test) / len(table) == pytest.approx(fraction, rel=0.1)


@settings(max_examples=10)
@given(tables(with_sites=True), st.integers(0, 100))
def test_no_prototype_leaks_where_that_is_asked_for(table, seed):
    try:
        sets = three_way_split(table, 0.3, 0.3, np.random.default_rng(seed), by="prototype")
    except BadInput:
        assume(False)
    proof = split_proof(*(table.take(rows) for rows in sets[:2]), by="prototype").set_index("quantity")
    assert proof.shared[["prototypes", "reduced formulas"]].tolist() == [0, 0]
    for labels in (prototypes(table), table.reduced_formula):
        kinds = [set(labels[rows]) for rows in sets]
        assert sum(map(len, kinds)) == len(set.union(*kinds))


@given(tables(), st.integers(2, 9), st.sampled_from([1.0, 0.4]), st.integers(0, 100), st.booleans())
def test_pairs_stay_in_their_group_and_aim_down(table, per_group, share, seed, twins):
    if twins:  # every other crystal of a group is the same as its lowest
        twin = table.id.copy()
        for rows in polymorph_groups(table).values():
            twin[rows[::2]] = table.id[rows[0]]
        table = replace(table, extra={TWIN: twin})
    try:
        sampler, again = (PairSampler(table, per_group, np.random.default_rng(seed), share) for _ in range(2))
        epochs = [sampler.epoch() for _ in range(2)]
    except BadInput:
        assume(False)
    lowest = [rows[0] for rows in polymorph_groups(table).values()]
    for init, target in epochs:
        assert (table.formula[init] == table.formula[target]).all()
        assert (table.formation_energy[init] > table.formation_energy[target]).all()
        assert np.unique(table.formula[init], return_counts=True)[1].max(initial=0) <= per_group
        to_lowest = np.isin(target, lowest)
        assert to_lowest.all() or to_lowest.sum() * 2 == len(target)
        if share < 1:
            assert np.unique(table.n_sites[init], return_counts=True)[1].max(initial=0) <= share * len(init)
        if twins:
            assert (table.extra[TWIN][init] != table.extra[TWIN][target]).all()
    for one, other in zip(epochs, (again.epoch() for _ in range(2)), strict=True):
        assert np.array_equal(one, other), "each process of several draws the same"
    init, target = validation_pairs(table, per_group, np.random.default_rng(seed))
    assert np.isin(target, lowest).all() and (table.formula[init] == table.formula[target]).all()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.floats(0.1, 1.0))
def test_no_kind_has_more_than_its_share_and_no_more_go_than_must(counts, share):
    counts = np.array(counts)
    try:
        most = most_of_each(counts, share)
    except BadInput:
        assert np.count_nonzero(counts) * share <= 1
        return
    assert (most <= counts).all() and most.max() <= share * most.sum() + 1e-6
    more = np.minimum(counts, most.max() + 1)
    assert (more == most).all() or more.max() > share * more.sum(), "a higher limit would break the share"
    kinds = np.repeat(np.arange(len(counts)), counts)
    assert np.bincount(kinds[first_of_each(kinds, most)], minlength=len(counts)).tolist() == most.tolist()
