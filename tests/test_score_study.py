"""What stands beside the score model: templates chosen by what each level is told, and no more."""

from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure

from lib.core import stats
from lib.core.errors import BadInput
from lib.core.parameters import notebook_parameters
from lib.core.run import Run
from lib.crystals.table import CrystalTable
from lib.models.dimenet import PUBLISHED
from lib.retrieval.site_statistics import positions_by_element
from lib.retrieval.templates import ElementRanking
from lib.studies import score
from lib.studies.model_plan import finished_file, sizes_of, trainers
from lib.studies.score_params import ScoreTrainParams

CORNER, CENTRE, EDGE = [0, 0, 0], [0.25] * 3, [0.5] * 3
FCC = 2.9 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])


def half_heusler(*elements: str) -> Structure:
    """The middle element has the two others around it."""
    return Structure(Lattice(FCC), elements, [CORNER, CENTRE, EDGE])


def around(structure: Structure, symbol: str) -> list[Element]:
    """Elements of the nearest neighbours of an element's one atom."""
    (site,) = (site for site in structure if site.specie.symbol == symbol)
    found = structure.get_neighbors(site, 4.0)
    return [one.specie for one in found if one.nn_distance < min(n.nn_distance for n in found) + 0.1]


def tetragonal(*elements: str, places: list) -> Structure:
    return Structure(Lattice.tetragonal(3.0, 7.0), elements, [CORNER, *places])


def table(*structures: Structure) -> CrystalTable:
    names, energies = [f"c{i}" for i in range(len(structures))], np.linspace(-2.0, -1.0, len(structures))
    return CrystalTable.from_structures(structures, id=names, formation_energy=energies, energy_kind="none")


def test_a_template_on_the_targets_positions_is_found_whichever_origin_describes_it():
    """Numbers of positions follow the elements' order, which other elements change."""
    training, targets = (
        table(half_heusler("Ni", "Ti", "Sn"), half_heusler("Zr", "Co", "Sb")),
        table(half_heusler("Ti", "Ni", "Sn")),
    )
    found = score.substitution(targets, ElementRanking(training))
    middle = {level: set(map(str, around(made[0], "Ni"))) for level, made in found.items()}
    assert middle == {"letters": {"Ti", "Sn"}, "composition": {"Ti"}, "sites": {"Ti"}}
    lonely = score.substitution(targets, ElementRanking(training.take([0])))
    assert lonely["letters"] == lonely["composition"], "where none is on these positions"


def test_at_level_sites_a_template_has_as_many_sites_of_each_element_and_any_number_of_atoms():
    edges = [[0, 0.5, 0.5], [0.5, 0, 0.5]]
    training = table(*(tetragonal(metal, other, other, places=edges) for metal, other in (("Ca", "F"), ("Zr", "O"))))
    targets = table(tetragonal("Na", "Cl", places=[EDGE]))
    assert {*training.space_group, *targets.space_group} == {123}
    found = score.substitution(targets, ElementRanking(training))
    assert found["composition"] == found["letters"] == [None]
    assert found["sites"][0].composition.reduced_formula == "NaCl2", "Na for Ca, and not for Zr"


def test_no_level_is_told_an_energy():
    """Two crystals of one formula and group: which of them lends its sites must not follow from the target's energy."""
    several = [
        tetragonal("Ti", "O", "O", places=places)
        for places in ([[0, 0, 0.3], [0, 0, 0.7]], [[0, 0.5, 0.5], [0.5, 0, 0.5]])
    ]
    training = table(*several)
    targets = table(several[0].copy().replace_species({"Ti": "Zr"}))
    made = []
    for energy in (-2.0, -1.0):
        asked = replace(targets, formation_energy=np.array([energy]))
        ranking = ElementRanking(training)
        told = [positions_by_element(unit) for unit in score.told_positions(asked, ranking)["composition"]]
        made.append((told, score.substitution(asked, ranking)))
    assert made[0] == made[1]


def test_a_share_of_elements_says_how_many_elements_it_is_of():
    share = stats.share(np.array([True, True, False]), np.array([0, 0, 1]))
    assert score.sites_in_words(share).endswith("n = 3 elements of crystals).")


def test_weights_that_are_finished_are_taken_and_the_others_trained(tmp_path):
    """So that the two networks of notebook 21 can be trained in runs of their own."""
    sizes = dict.fromkeys(("dimenet_width", "dimenet_out", "dimenet_interaction", "dimenet_basis"), 4)
    how = sizes | {"dimenet_blocks": 1, "steps": 1, "validate_every": 1, "batch_size": 2}
    crystals = table(*(tetragonal("Na", element, places=[EDGE]) for element in ("F", "Cl", "Br")))

    def planned(run: str, crystals: CrystalTable = crystals, **more) -> list:
        return list(
            trainers(Run(ScoreTrainParams(run=run, **how | more), root=tmp_path), "generation", crystals, crystals)
        )

    (alone,) = planned("alone", networks=["dimenet"], finished=None)
    assert score.silent_loss(alone, crystals, 0, 200) == pytest.approx(0.5, abs=0.1), "no site has a free parameter"
    alone._save()
    params = ScoreTrainParams(run="both", finished=alone.path.parent)
    letters, sites = planned("both", finished=params.finished)
    assert letters.path.read_bytes() == alone.path.read_bytes() and not sites.path.exists()
    assert finished_file(params, letters.path) == alone.path and finished_file(params, sites.path) is None
    with pytest.raises(BadInput, match="learnt from other crystals"):
        planned("others", crystals.take([0, 1]), finished=params.finished)


def test_the_profile_for_a_gpu_has_the_published_sizes():
    """But for the two that it says: triplets of the nearest edges, and the cell from least squares."""
    params = ScoreTrainParams(**notebook_parameters("21_score_model", "score_gpu"))
    ours = {"most_near": 30, "cell": "least squares"}
    assert sizes_of(params, "dimenet") == replace(PUBLISHED["mp20"], **ours)
    assert params.steps * params.batch_size == pytest.approx(2.4e6, rel=0.01)
