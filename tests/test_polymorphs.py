import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lib.core import published
from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.datasets.pairs import PairSampler, compare_epochs, validation_pairs
from lib.datasets.polymorphs import (
    choose_targets,
    element_counts,
    element_shares,
    funnel,
    group_sizes,
    polymorph_groups,
    space_group_counts,
    summary,
    with_newcomers,
)
from lib.datasets.sources import embedded
from lib.datasets.sources.embedded import EMBEDDED
from lib.datasets.splits import split_by_formula, split_proof, three_way_split, without_formulas
from lib.figures import data as figures

NUMBERS = {"B": 5, "Al": 13, "Ti": 22, "Ni": 28, "Cu": 29, "Mo": 42, "Ta": 73, "W": 74, "Au": 79}
OPEN = {"min_sites": 1, "max_sites": 60, "energy_window": (-5, 5), "min_group_size": 1, "rare_fraction": 0.0}


def table(crystals):
    """A table of (formula as {symbol: count}, energy, space group); what else a crystal has is of no matter here."""
    formulas, energies, space_groups = zip(*crystals, strict=True)
    species = [np.repeat([NUMBERS[s] for s in f], list(f.values())) for f in formulas]
    n_sites = [len(s) for s in species]
    return CrystalTable.pack(
        id=[f"c{i}" for i in range(len(formulas))],
        lattice=np.tile(4 * np.eye(3), (len(formulas), 1, 1)),
        frac_coords=np.random.default_rng(0).random((sum(n_sites), 3)),
        species=np.concatenate(species),
        n_sites=n_sites,
        formation_energy=energies,
        space_group=space_groups,
        energy_kind="made up",
    )


def many(seed=0, n_systems=40, n_elements=9):
    """Polymorph groups of 3 to 40 structures in binary and ternary systems; no two energies are equal."""
    rng = np.random.default_rng(seed)
    crystals = []
    for _ in range(n_systems):
        symbols = rng.choice(list(NUMBERS)[:n_elements], rng.integers(2, 4), replace=False)
        for _ in range(rng.integers(1, 9)):
            formula = {str(s): int(rng.integers(1, 5)) for s in symbols}
            for _ in range(rng.integers(3, 41)):
                crystals.append((formula, rng.normal(), int(rng.geometric(0.1))))
    return table([crystals[i] for i in rng.permutation(len(crystals))])


# ------------------------------------------------------------------------------------------------------- counts


def test_counts_of_elements_and_space_groups():
    crystals = table([({"Ta": 1, "B": 2}, 0, 191), ({"Ta": 3, "W": 1}, 0, 123), ({"W": 2}, 0, 191)])
    counts = element_counts(crystals)
    assert {number: counts[number] for number in np.flatnonzero(counts)} == {5: 1, 73: 2, 74: 2}
    assert counts.shape == (119,)
    assert (space_group_counts(crystals)[[123, 191]] == [1, 2]).all() and space_group_counts(crystals).sum() == 3
    shares = element_shares({"a": crystals, "b": crystals.take([0])})
    assert shares.loc["Ta"].tolist() == [pytest.approx(2 / 3), 1.0]
    assert shares.index.tolist() == ["B", "Ta", "W"]


def test_counts_agree_with_a_plain_loop():
    crystals = many(3)
    counted = Counter(number for i in range(len(crystals)) for number in set(crystals.species_of(i).tolist()))
    assert {number: count for number, count in enumerate(element_counts(crystals)) if count} == counted


# ------------------------------------------------------------------------------------------------------- groups


def test_groups_are_of_unreduced_formulas_lowest_first():
    crystals = table(
        [
            ({"B": 2, "Ta": 1}, 0.3, 1),
            ({"B": 4, "Ta": 2}, -1, 1),
            ({"B": 2, "Ta": 1}, -0.5, 1),
            ({"B": 2, "Ta": 1}, 0.1, 1),
        ]
    )
    groups = polymorph_groups(crystals)
    assert {formula: rows.tolist() for formula, rows in groups.items()} == {"B2Ta1": [2, 3, 0], "B4Ta2": [1]}
    assert sorted(group_sizes(crystals)) == [1, 3]
    assert polymorph_groups(crystals.take([])) == {}


def test_targets_are_the_lowest_first_and_any_of_an_official_split():
    crystals = many()
    rank_of = {row: k for rows in polymorph_groups(crystals).values() for k, row in enumerate(rows.tolist())}
    n = len(group_sizes(crystals)) + 2
    rows, rank = choose_targets(crystals, n, np.random.default_rng(0))
    assert len(set(rows.tolist())) == n and rank.tolist() == [rank_of[row] for row in rows.tolist()]
    assert rank.tolist() == [0] * (n - 2) + [1, 1]
    official = replace(crystals, extra={"split": np.full(len(crystals), "test")})
    rows, rank = choose_targets(official, n, np.random.default_rng(0))
    assert len(set(rows.tolist())) == n and rank.tolist() == [rank_of[row] for row in rows.tolist()]
    every = np.bincount(list(rank_of.values())) / len(crystals)
    assert np.bincount(rank, minlength=len(every))[0] / n == pytest.approx(every[0], abs=0.2)
    assert rank.max() > 1, "not the lowest alone"


def test_groups_hold_every_row_once_in_order_of_energy():
    crystals = many()
    groups = polymorph_groups(crystals)
    assert sorted(np.concatenate(list(groups.values()))) == list(range(len(crystals)))
    for formula, rows in groups.items():
        assert set(crystals.formula[rows]) == {formula}
        assert (np.diff(crystals.formation_energy[rows]) >= 0).all()


# ------------------------------------------------------------------------------------------------------- funnel


def kept(crystals, **changes):
    left, steps = funnel(crystals, **(OPEN | changes))
    return left.id.tolist(), steps


def test_sites_are_inclusive_and_energies_strict():
    crystals = table(
        [({"Ta": n}, e, 1) for n, e in ((3, 0), (4, 0), (6, 0), (7, 0), (5, -1), (5, -0.999), (5, 1), (5, 0.999))]
    )
    assert kept(crystals, min_sites=4, max_sites=6, energy_window=(-1, 1))[0] == ["c1", "c2", "c5", "c7"]


def test_rare_means_in_less_than_the_share():
    # of 100 structures Ni stands in 7 and Ti in 6; 0.07 * 100 is 7.000000000000001 in floating point
    crystals = table([({"Ta": 4}, 0, 1)] * 87 + [({"Ta": 3, "Ni": 1}, 0, 1)] * 7 + [({"Ta": 3, "Ti": 1}, 0, 1)] * 6)
    left, steps = kept(crystals, rare_fraction=0.07)
    assert left == [f"c{i}" for i in range(94)]
    crystals = table([({"Ta": 4}, 0, 1)] * 87 + [({"Ta": 4}, 0, 2)] * 7 + [({"Ta": 4}, 0, 3)] * 6)
    assert kept(crystals, rare_fraction=0.07)[0] == [f"c{i}" for i in range(94)]


def test_filters_repeat_until_all_of_them_hold():
    # Space group 9 is rare; without its two members the group Ta3W1 has 3 of the 4 it needs; without that group W is
    # in 5 of 104 structures and rare; without W the group B1Ta2W1 goes as well.
    crystals = table(
        [({"Ta": 2, "B": 2}, 0, 1)] * 99
        + [({"Ta": 3, "W": 1}, 0, 1)] * 3
        + [({"Ta": 3, "W": 1}, 0, 9)] * 2
        + [({"Ta": 2, "B": 1, "W": 1}, 0, 1)] * 5
    )
    left, steps = kept(crystals, min_group_size=4, rare_fraction=0.05)
    assert left == [f"c{i}" for i in range(99)]
    assert steps.to_dict("list") == {
        "step": [
            "all",
            "1 to 60 atoms",
            "formation energy between -5 and 5 eV/atom",
            "polymorph groups of 4 or more",
            "elements in at least 5 % of structures",
            "space groups in at least 5 % of structures",
            "polymorph groups of 4 or more (round 2)",
            "elements in at least 5 % of structures (round 2)",
        ],
        "structures": [109, 109, 109, 109, 109, 107, 104, 99],
        "groups": [3, 3, 3, 3, 3, 3, 2, 1],
    }


@pytest.mark.parametrize("seed", range(3))
def test_result_meets_every_filter_at_once(seed):
    crystals = many(seed)
    rare = 0.03
    left, steps = funnel(crystals, **(OPEN | {"min_sites": 4, "min_group_size": 7, "rare_fraction": rare}))
    assert 0 < len(left) < len(crystals)
    assert left.n_sites.min() >= 4
    assert group_sizes(left).min() >= 7
    counts = element_counts(left)
    assert counts[counts > 0].min() / len(left) >= rare
    groups = space_group_counts(left)
    assert groups[groups > 0].min() / len(left) >= rare
    assert steps.structures.iloc[-1] == len(left) and steps.groups.iloc[-1] == len(group_sizes(left))
    assert (np.diff(steps.structures) <= 0).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_sites": 50}, "'50 to 60 atoms' left none of .*; widen the parameter min_sites and max_sites"),
        ({"energy_window": (7, 9)}, "'formation energy between 7 and 9 eV/atom' left none .* energy_window"),
        ({"min_group_size": 500}, "'polymorph groups of 500 or more' left none .* min_group_size"),
        ({"rare_fraction": 0.99}, "'elements in at least 99 % of structures' left none .* rare_fraction"),
    ],
)
def test_filter_that_empties_the_set_is_named(changes, said):
    with pytest.raises(BadInput, match=said):
        funnel(many(), **(OPEN | changes))


def test_space_groups_can_empty_the_set_too():
    crystals = table([({"Ta": 4}, 0, 1 + i) for i in range(30)])
    with pytest.raises(BadInput, match="'space groups .* 10 %.* 30 structures"):
        funnel(crystals, **(OPEN | {"rare_fraction": 0.1}))


def test_paper_funnel_on_the_embedded_set():
    crystals = CrystalTable.from_parquet(embedded.EMBEDDED)
    left, _ = funnel(crystals, **published.FUNNEL)
    assert group_sizes(left).min() >= 7
    assert left.n_sites.min() >= 4 and left.n_sites.max() <= 60
    frame = summary({"ingested": crystals, "training": left})
    assert frame.loc["structures", "ingested"] == f"{len(crystals):,}"
    assert frame.loc["structures in the largest group", "training"] == str(
        max(map(len, polymorph_groups(left).values()))
    )
    assert frame["paper"].to_dict() == published.DATA_SET


# -------------------------------------------------------------------------------------------------------- split


def test_sets_share_no_reduced_formula():
    crystals = many()
    train, validation = split_by_formula(crystals, 0.1, np.random.default_rng(0))
    assert sorted([*train, *validation]) == list(range(len(crystals)))
    assert not set(crystals.reduced_formula[train]) & set(crystals.reduced_formula[validation])
    assert not set(crystals.formula[train]) & set(crystals.formula[validation])


def test_multiples_of_a_formula_stay_together():
    crystals = table(
        [({"Ta": n, "B": 2 * n}, 0.1 * n, 1) for n in (1, 2, 3)] * 4
        + [({"W": n, "B": 1 + n}, 0, 1) for n in range(1, 9)]
    )
    for seed in range(20):
        sides = split_by_formula(crystals, 0.3, np.random.default_rng(seed))
        assert sum("TaB2" in crystals.reduced_formula[rows] for rows in sides) == 1


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_elements_are_balanced_better_than_by_chance(fraction):
    crystals = many(1, n_systems=120)

    def worst_difference(validation_rows):
        inside = np.isin(np.arange(len(crystals)), validation_rows)
        shares = element_shares({"train": crystals.take(~inside), "validation": crystals.take(inside)})
        return np.abs(shares.train - shares.validation).max(), inside.mean()

    ours = np.array(
        [worst_difference(split_by_formula(crystals, fraction, np.random.default_rng(s))[1]) for s in range(5)]
    )
    formulas = np.unique(crystals.reduced_formula)
    chance = [
        worst_difference(
            np.flatnonzero(
                np.isin(
                    crystals.reduced_formula,
                    np.random.default_rng(s).choice(formulas, round(fraction * len(formulas)), replace=False),
                )
            )
        )[0]
        for s in range(5)
    ]
    assert ours[:, 0].max() < 0.04
    assert ours[:, 0].mean() < 0.5 * np.mean(chance)
    np.testing.assert_allclose(ours[:, 1], fraction, rtol=0.25)


def test_chemical_systems_are_balanced():
    # to take Ta-B and W-Mo whole and nothing else would balance all four elements, but not the systems
    rng = np.random.default_rng(5)
    systems = (("Ta", "B"), ("W", "Mo"), ("Ta", "W"), ("B", "Mo"))
    coprime = [(a, b) for a in range(1, 8) for b in range(1, 8) if np.gcd(a, b) == 1][:20]
    crystals = table([({x: a, y: b}, 0, 1) for (x, y), (a, b) in itertools.product(systems, coprime) for _ in range(8)])
    for _ in range(5):
        _, validation = split_by_formula(crystals, 0.2, rng)
        chosen = Counter(tuple(sorted(set(crystals.species_of(i).tolist()))) for i in validation)
        assert len(chosen) == 4
        assert all(3 * 8 <= count <= 5 * 8 for count in chosen.values())  # 4 of 20 formulas of 8 structures each


def test_split_depends_on_the_generator_alone():
    crystals = many()
    first, again, other = (split_by_formula(crystals, 0.1, np.random.default_rng(s))[1].tolist() for s in (7, 7, 8))
    assert first == again
    assert first != other


def test_split_of_one_formula_is_impossible():
    with pytest.raises(BadInput, match="1 reduced formulas .*validation_fraction 0.1"):
        split_by_formula(table([({"Ta": 1, "B": 2}, 0, 1)] * 9), 0.1, np.random.default_rng(0))


def test_proof_shows_leaks():
    crystals = many()
    train, validation = split_by_formula(crystals, 0.1, np.random.default_rng(0))
    proof = split_proof(crystals.take(train), crystals.take(validation)).set_index("quantity")
    assert proof.shared[["structures", "polymorph groups (unreduced formulas)", "reduced formulas"]].tolist() == [
        0,
        0,
        0,
    ]
    assert proof["first"]["structures"] + proof["second"]["structures"] == len(crystals)
    ta = proof.loc["share of structures with Ta"]
    assert ta["first"] == pytest.approx(np.mean([73 in crystals.species_of(i) for i in train]))
    assert ta.difference == pytest.approx(ta["second"] - ta["first"])
    leaky = split_proof(crystals.take(train), crystals.take([*validation, train[0]])).set_index("quantity")
    assert leaky.shared[["structures", "polymorph groups (unreduced formulas)", "reduced formulas"]].tolist() == [
        1,
        1,
        1,
    ]


# -------------------------------------------------------------------------------------------------------- pairs


def kinds(crystals, init, target):
    """Number of pairs whose target is the lowest of its group, and of the others."""
    lowest = [rows[0] for rows in polymorph_groups(crystals).values()]
    return np.isin(target, lowest).sum(), (~np.isin(target, lowest)).sum()


@pytest.mark.parametrize("pairs_per_group", [2, 4, 8, 9])
def test_epoch_keeps_the_rules_of_the_paper(pairs_per_group):
    crystals = many()
    sampler = PairSampler(crystals, pairs_per_group, np.random.default_rng(0))
    for _ in range(5):
        init, target = sampler.epoch()
        assert (crystals.formula[init] == crystals.formula[target]).all()
        assert (crystals.formation_energy[init] > crystals.formation_energy[target]).all()
        lowest, others = kinds(crystals, init, target)
        assert lowest == others > 0
        assert len(set(zip(init, target, strict=True))) == len(init)
        _, per_group = np.unique(crystals.formula[init], return_counts=True)
        assert per_group.max() <= pairs_per_group


def test_every_group_with_enough_members_gives_its_full_number():
    crystals = many()
    large = {formula for formula, rows in polymorph_groups(crystals).items() if len(rows) >= 5}  # 4 and 6 pairs
    lowest = PairSampler(crystals, 8, np.random.default_rng(0)).lowest(4)
    formulas, counts = np.unique(crystals.formula[lowest[:, 0]], return_counts=True)
    assert set(counts[np.isin(formulas, list(large))]) == {4}
    assert set(formulas) == set(polymorph_groups(crystals))


def test_epochs_differ_and_repeat_with_the_seed():
    crystals = many()
    one, again = (PairSampler(crystals, 4, np.random.default_rng(3)) for _ in range(2))
    first, second = one.epoch(), one.epoch()
    assert {*zip(*first, strict=True)} != {*zip(*second, strict=True)}
    for a, b in zip((first, second), (again.epoch(), again.epoch()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_pairs_of_a_group_come_equally_often():
    energies = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    crystals = table([({"Ta": 4}, e, 1) for e in energies] + [({"W": 4}, e, 1) for e in energies])
    sampler = PairSampler(crystals, 4, np.random.default_rng(0))
    counts = np.zeros((12, 12))
    n_epochs = 4000
    for _ in range(n_epochs):
        np.add.at(counts, sampler.epoch(), 1)
    for block in (counts[:6, :6], counts[6:, 6:]):
        assert not np.triu(block).any()
        np.testing.assert_allclose(block[1:, 0], n_epochs * 2 / 5, rtol=0.1)  # 5 lowest pairs, 2 drawn
        others = [block[i, j] for i in range(2, 6) for j in range(1, i)]
        assert len(others) == 10
        np.testing.assert_allclose(others, n_epochs * 2 / 10, rtol=0.15)


def test_small_groups_give_all_they_have():
    # three members: two lowest pairs and one other
    crystals = table([({"Ta": 4}, e, 1) for e in (0.3, 0.1, 0.2)])
    sampler = PairSampler(crystals, 8, np.random.default_rng(0))
    assert sorted(map(tuple, sampler.lowest(4))) == [(0, 1), (2, 1)]
    assert sampler.non_lowest(4).tolist() == [[0, 2]]
    init, target = sampler.epoch()
    assert len(init) == 2 and kinds(crystals, init, target) == (1, 1)


def test_groups_of_two_give_lowest_pairs_alone():
    crystals = table([({"Ta": 4}, 0.3, 1), ({"Ta": 4}, 0.1, 1), ({"W": 4}, 0.0, 1), ({"W": 4}, 0.9, 1)])
    init, target = PairSampler(crystals, 8, np.random.default_rng(0)).epoch()
    assert sorted(zip(init, target, strict=True)) == [(0, 1), (3, 2)]


def test_equal_energies_make_no_pair():
    crystals = table([({"Ta": 4}, e, 1) for e in (0.0, 0.0, 0.5, 0.5, 0.5)] + [({"W": 4}, 0.2, 1)] * 3)
    sampler = PairSampler(crystals, 20, np.random.default_rng(0))
    for _ in range(20):
        init, target = sampler.epoch()
        assert (crystals.formation_energy[init] > crystals.formation_energy[target]).all()
        assert set(target) == {0} and set(init) <= {2, 3, 4}  # what equals the lowest is no non-lowest target
    with pytest.raises(BadInput, match="polymorph group .*lower min_group_size"):
        PairSampler(table([({"W": 4}, 0.2, 1)] * 3), 8, np.random.default_rng(0))


def test_validation_pairs_aim_at_the_lowest():
    crystals = many(2)
    init, target = validation_pairs(crystals, 8, np.random.default_rng(0))
    groups = polymorph_groups(crystals)
    assert all(target[i] == groups[crystals.formula[init[i]]][0] for i in range(len(init)))
    assert (crystals.formation_energy[init] > crystals.formation_energy[target]).all()
    _, per_group = np.unique(target, return_counts=True)
    assert sorted(per_group) == sorted(min(8, len(rows) - 1) for rows in groups.values())
    assert len(set(zip(init, target, strict=True))) == len(init)


def test_comparison_of_epochs():
    crystals = many()
    frame = compare_epochs(PairSampler(crystals, 8, np.random.default_rng(0)))
    init, target = PairSampler(crystals, 8, np.random.default_rng(0)).epoch()
    assert frame.pairs[0] == len(init)
    assert (frame["target lowest"] == frame["target not lowest"]).all()
    assert frame["most of one group"].max() <= 8
    assert (frame["smallest energy drop (eV/atom)"] > 0).all()
    assert frame["also in the epoch before"][0] == 0 < frame["also in the epoch before"][1] < frame.pairs[1]


def test_an_epoch_of_many_groups_is_nearly_full():
    rng = np.random.default_rng(0)
    n_groups, size = 20_000, 10
    formulas = np.repeat(np.arange(n_groups), size)
    composition = np.stack([1 + formulas // 10_000, 1 + formulas // 100 % 100, 1 + formulas % 100], axis=1).astype(
        np.uint8
    )
    crystals = CrystalTable(
        id=np.arange(len(formulas)).astype(str),
        lattice=np.zeros((len(formulas), 3, 3)),
        frac_coords=np.zeros((3 * len(formulas), 3)),
        species=composition.ravel(),
        offsets=3 * np.arange(len(formulas) + 1),
        formation_energy=rng.normal(size=len(formulas)),
        space_group=np.ones(len(formulas), dtype=int),
        energy_kind="made up",
    )
    sampler = PairSampler(crystals, 8, rng)
    init, _ = sampler.epoch()
    assert len(init) > 7.5 * len(sampler.sizes)


# ------------------------------------------------------------------------------------------------------ figures


def test_figures_show_the_numbers_given():
    crystals = many()
    left, steps = funnel(crystals, **(OPEN | {"min_group_size": 7}))
    bars = figures.funnel(steps).axes[0].patches
    assert [bar.get_width() for bar in bars] == steps.structures.tolist()
    sizes = figures.group_sizes(group_sizes(left), published.GROUP_SIZES).axes[0]
    assert sum(bar.get_height() for bar in sizes.containers[0]) == len(group_sizes(left))
    counts = figures.coordinates(np.array([[0, 0.5, 1 / 3]] * 10)).axes
    tallest = [max(axes.patches, key=lambda bar: bar.get_height()) for axes in counts]
    assert [bar.get_height() for bar in tallest] == [10, 10, 10]
    np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in tallest], [0, 0.5, 1 / 3])


def test_formulas_are_left_out_however_they_are_written():
    table = CrystalTable.from_parquet(EMBEDDED).take(range(1500))
    formula = table.formula[7]
    left = without_formulas(table, [formula, "NaCl2Xe7"])
    gone = table.reduced_formula == table.reduced_formula[7]
    assert gone.sum() > 1 and left.id.tolist() == table.id[~gone].tolist()
    assert len(without_formulas(table, [])) == len(table)
    with pytest.raises(BadInput, match="Qx"):
        without_formulas(table, ["Qx2"])


def test_three_sets_share_no_formula_and_an_official_test_split_changes_nothing_else():
    table = CrystalTable.from_parquet(EMBEDDED)
    table = table.take(np.random.default_rng(0).permutation(len(table))[:1500])
    train, validation, test = three_way_split(table, 0.1, 0.2, np.random.default_rng(1))
    formulas = [set(table.reduced_formula[rows]) for rows in (train, validation, test)]
    assert sum(map(len, formulas)) == len(set.union(*formulas)) and len(train) + len(validation) + len(test) == 1500
    assert abs(len(test) / 1500 - 0.2) < 0.03

    chosen_by = split_by_formula(table, 0.2, np.random.default_rng(1))[1]
    train, other, unseen = three_way_split(table, 0.2, 0.2, np.random.default_rng(1), first="validation")
    assert np.array_equal(other, chosen_by), "as before there was a test set"
    formulas = [set(table.reduced_formula[rows]) for rows in (train, other, unseen)]
    assert sum(map(len, formulas)) == len(set.union(*formulas)) and abs(len(unseen) / len(table) - 0.16) < 0.03

    train, validation, test = three_way_split(table, 0.1, 0.2, np.random.default_rng(1))
    official = replace(table.take(range(40)), id=np.array([f"official-{i}" for i in range(40)]))
    sides = [replace(t, extra={"split": np.full(len(t), s)}) for t, s in ((table, "train"), (official, "test"))]
    joined = CrystalTable.join(sides, about={})
    again = three_way_split(joined, 0.1, 0.2, np.random.default_rng(1))
    assert np.array_equal(again[0], train) and np.array_equal(again[1], validation)
    assert joined.id[again[2]].tolist() == official.id.tolist()

    train, validation, test = three_way_split(table, 0.1, 0.0, np.random.default_rng(1))
    assert np.array_equal(validation, test)


def test_newcomers_are_new_and_of_formulas_nobody_learnt():
    learnt = table([({"Ta": 2, "B": 4}, 0.0, 1)])
    test = table([({"Al": 1, "Ni": 1}, 0.0, 1), ({"Al": 1, "Ni": 1}, 0.3, 1), ({"Cu": 2}, 0.0, 1)])
    learnt, test = replace(learnt, id=np.array(["l0"])), replace(test, id=np.array(["t0", "t1", "t2"]))
    crystals = {
        "new lowest": ({"Al": 1, "Ni": 1}, -0.2, 1),
        "learnt formula": ({"Ta": 1, "B": 2}, 0.0, 1),
        "t2": ({"Cu": 2}, 0.5, 1),
        "alone": ({"Ti": 1}, 0.0, 1),
        "too large": ({"Cu": 7}, 0.0, 1),
        "pair, high": ({"W": 2}, 0.2, 1),
        "pair, low": ({"W": 2}, 0.1, 1),
    }
    more = replace(table(list(crystals.values())), id=np.array(list(crystals)))
    judged, pairs = with_newcomers(test, more, [learnt])
    assert judged.id.tolist() == ["t0", "t1", "t2", "new lowest", "alone", "pair, high", "pair, low"]
    found = set(map(tuple, pairs.to_numpy()))
    assert found == {("t0", "new lowest"), ("t1", "new lowest"), ("pair, high", "pair, low")}
    none, pairs = with_newcomers(test, more.take([1]), [learnt])
    assert none.id.tolist() == test.id.tolist() and pairs.empty


@pytest.mark.parametrize(("size", "most"), [(7, 3), (50, 4), (9, 8), (2, 5)])
def test_of_a_large_group_the_lowest_and_the_highest_stay_and_others_between(size, most):
    crystals = CrystalTable.from_parquet(EMBEDDED)
    _, formulas = crystals.formulas
    sizes = group_sizes(crystals)
    rows = np.flatnonzero(crystals.formula == formulas[sizes.argmax()])[:size]
    group = replace(crystals.take(rows), formation_energy=np.random.default_rng(0).permutation(len(rows)) / 100)
    left, _ = funnel(group, **(OPEN | {"max_group_size": most}))
    kept = np.sort(np.rint(100 * left.formation_energy)).astype(int)
    assert len(kept) == min(most, len(rows)) and kept[0] == 0 and kept[-1] == len(rows) - 1
    assert np.ptp(np.diff(kept)) <= 1, "in equal steps of rank"
