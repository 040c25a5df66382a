"""Several answers to a composition alone: by which templates, told what, and counted how."""

import numpy as np
import pandas as pd

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.retrieval.templates import ElementRanking
from lib.studies.several_answers import answers, nth, shared_out, with_filtered


def test_the_model_and_the_lookup_answer_by_the_same_templates_and_are_told_no_more_than_the_composition():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    formula = embedded.reduced_formula == embedded.reduced_formula[0]
    targets, training = embedded.take(np.flatnonzero(formula)[:3]), embedded.take(np.flatnonzero(~formula)[:2000])
    asked = {}

    def sample(**request):
        asked.update(request)
        return list(range(len(request["units"])))

    made, looked_up = answers(targets, ElementRanking(training), 4, sample)
    assert np.isnan(asked["energy"]).all()
    assert [u.symmetry for u in asked["units"]] == list(asked["space_group"]), "the group is the template's"
    assert all(1 <= len(few) <= 4 for few in made)
    assert [j for few in made for j in few] == list(range(sum(map(len, made))))
    for few, lent in zip(made, looked_up, strict=True):
        assert len(few) == len(lent)
        for j, structure in zip(few, lent, strict=True):
            assert np.allclose(structure.lattice.matrix, asked["units"][j].lattice)


def test_polymorphs_share_out_the_answers_of_their_composition():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    formulas, counts = np.unique(embedded.formula, return_counts=True)
    one = np.flatnonzero(embedded.formula == formulas[counts.argmax()])[:3]
    other = np.flatnonzero(embedded.formula == formulas[counts.argmin()])[:1]
    targets = embedded.take([one[0], other[0], one[1], one[2]])
    assert shared_out(targets, [["a", "b"], ["c"], ["a", "b"], ["a", "b"]]) == ["a", "c", "b", "a"]
    assert shared_out(targets, [[]] * 4) == [None] * 4
    assert nth([["a", "b"], ["c"]], 1) == ["b", None]


def test_filtered_rows_count_no_match_of_a_composition_that_is_not_neutral():
    names = {"NaCl": True, "Na2Cl": False, "TaW": True}
    verdicts = pd.DataFrame({"row": "model", "target": list(names), "formula": list(names), "match_csp": True})
    found = with_filtered(verdicts).set_index(["row", "formula"]).match_csp
    assert found["model"].all() and found["model, filtered"].to_dict() == names
