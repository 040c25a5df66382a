"""Sites of targets without a template: filled in order, counted by free coordinates."""

import numpy as np

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.generation.sampling import request_streams
from lib.studies.no_template import at_random, by_free_coordinates, filled


def some() -> CrystalTable:
    embedded = CrystalTable.from_parquet(EMBEDDED)
    return embedded.take(np.random.default_rng(0).permutation(len(embedded))[:12])


def test_every_choice_of_sites_is_filled_for_its_own_target():
    targets = some()
    own = list(targets.asymmetric_units)
    units = [[], *([unit] * (1 + i % 3) for i, unit in enumerate(own[1:]))]
    asked = {}

    def sample(**request):
        asked.update(request)
        return list(range(len(request["units"])))

    found = filled(targets, units, sample)
    assert [len(few) for few in found] == [len(few) for few in units]
    assert [j for few in found for j in few] == list(range(sum(map(len, units))))
    for i, few in enumerate(found):
        for j in few:
            assert asked["units"][j] is own[i] and asked["space_group"][j] == targets.space_group[i]
            assert asked["energy"][j] == targets.formation_energy[i]
            assert np.array_equal(asked["species"][j], targets.species_of(i))
    request = [asked[name] for name in ("species", "space_group", "energy", "units")]
    among, alone = (request_streams(7, *(part[rows] for part in request)) for rows in (slice(9), slice(6, 7)))
    assert alone[0].random() == among[6].random(), "what is drawn does not depend on what stands beside it"
    assert filled(targets, [[]] * len(targets), sample) == [[]] * len(targets)


def test_targets_are_counted_once_by_their_free_coordinates():
    targets = some()
    subsets = by_free_coordinates(targets)
    assert sorted(name for ids in subsets.values() for name in ids) == sorted(targets.id)
    free = {
        i: sum(len(s.parameters) for s in u.sites) for i, u in zip(targets.id, targets.asymmetric_units, strict=True)
    }
    few, middle, many = subsets.values()
    assert all(free[i] <= 6 for i in few) and all(6 < free[i] <= 12 for i in middle) and all(free[i] > 12 for i in many)


def test_one_of_several_is_taken_at_random():
    several = [["a", "b"], [], ["c"]]
    drawn = [at_random(several, np.random.default_rng(seed)) for seed in range(20)]
    assert {one[0] for one in drawn} == {"a", "b"} and all(one[1:] == [None, "c"] for one in drawn)
