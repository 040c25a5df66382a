"""The ablation's plan and table, and METRe beside match rates."""

import numpy as np
import pandas as pd
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.core import published
from lib.core.errors import BadInput
from lib.figures import study as figures
from lib.metrics.matching import match_rows, rate_table, readable
from lib.retrieval.candidates import Ask
from lib.studies import study
from lib.studies.study_params import AblationParams

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]


def caesium_chloride(a=4.0, elements=("Cs", "Cl")) -> Structure:
    return Structure(Lattice.cubic(a), elements, CUBIC)


def rock_salt(a=5.6, elements=("Cs", "Cl")) -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(a), elements, CUBIC).get_primitive_structure()


def test_a_line_changes_what_it_names_and_nothing_else():
    blind = "composition, group"
    plan = study.variants({"few": {"steps": 5}, "blind": {"told": blind, "against": "few"}}, "net_cfm")
    assert list(plan) == ["base", "few", "blind"]
    assert (plan["few"].ask, plan["few"].options, plan["few"].against) == (study.FULL, {"steps": 5}, "base")
    assert (plan["blind"].ask, plan["blind"].options) == (Ask(energy=False), {"steps": 5})
    assert plan["blind"].model == "net_cfm" and plan["blind"].changed == f"told = {blind}"
    other = study.variants({"raw": {"model": "net_cfm_raw"}}, "net_cfm")["raw"]
    assert (other.model, other.ask, other.options) == ("net_cfm_raw", study.FULL, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 5}, "step, which a model does not know"),
        ({"against": "nothing"}, "against 'nothing', which no row before it"),
        ({"told": "all"}, "is told 'all'; choose one of"),
    ],
)
def test_what_no_model_knows_is_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        study.variants({"row": changes}, "net_cfm")


def test_ablation_is_paired_and_says_what_is_missing():
    plan = study.variants({"worse": {"steps": 1}, "absent": {"model": "x"}}, "net_cfm")
    hits = {"base": np.arange(60) < 50, "worse": np.arange(60) < 20}
    verdicts = pd.concat(
        pd.DataFrame({"row": row, "target": np.arange(60).astype(str), "match_csp": hit}) for row, hit in hits.items()
    )
    verdicts = verdicts.assign(formula=verdicts.target, match_default=verdicts.match_csp, match_strict=False)
    verdicts = verdicts.assign(rms=0.1, rms_angstrom=0.2, note="")
    lines = study.ablation_table(verdicts, plan).set_index("row")
    assert lines.loc["worse", "difference"] == pytest.approx(-0.5) and lines.loc["worse", "verdict"] == "less"
    assert lines.loc["absent", "verdict"] == "not in this run" and lines.loc["absent", "n"] == 0
    assert np.isnan(lines.loc["base", "difference"]) and lines.loc["base", "csp"] == pytest.approx(50 / 60)
    assert readable(lines.reset_index()).difference.tolist()[1].startswith("-0.500 (")
    figures.ablation(lines.reset_index())
    some = {"subsets": {"some": verdicts.target[:30].to_numpy()}}
    assert study.ablation_table(verdicts, plan, **some)["csp, some"].tolist()[:2] == pytest.approx([1, 20 / 30])


def test_metre_counts_an_answer_that_is_another_targets_polymorph():
    targets = table([caesium_chloride(), rock_salt()], energy=[-2, -1])
    answers = {"swapped": [rock_salt(), caesium_chloride()], "none": [None, None]}
    rates = rate_table(match_rows(targets, answers, n_workers=1), ["row"])
    found = study.with_metre(rates, targets, answers, n_workers=1).set_index("row")
    assert found.loc["swapped", "csp"] == 0 and found.loc["swapped", "metre"] == 1
    assert np.isnan(found.loc["none", "metre"])
    figures.settings(found.reset_index(), published.MP20)


def test_labels_tell_asks_apart_and_read_as_in_the_parameters():
    labels = [ask.label for ask in [*study.ASKS, study.BY_ENERGY]]
    assert len(set(labels)) == len(labels)
    known = set(labels) | {"composition, group, energy"}
    assert {line["told"] for line in AblationParams().ablation.values() if "told" in line} <= known
    assert study.BY_ENERGY.label == "composition, energy; template by energy"
