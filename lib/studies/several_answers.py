"""Several answers to a composition alone, by a model and by the templates that it starts from (notebook 10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from pymatgen.core import Lattice, Structure

from lib.crystals.table import CrystalTable
from lib.retrieval.candidates import candidates
from lib.retrieval.template_ranking import LearntRanking
from lib.studies.evaluation import is_neutral
from lib.studies.no_template import Filled, filled, units_of

FILTERED = ", filtered"


def answers(
    targets: CrystalTable, ranking: LearntRanking, n: int, sample: Callable[..., list[Structure | None]]
) -> tuple[Filled, Filled]:
    """Up to n answers to each target's composition, by different templates in the order of the ranking.

    Neither the space group nor the energy of a target is told to anything.

    Args:
        sample: :meth:`lib.generation.sampling.TrainedModel.generate` with its settings.

    Returns:
        What the model makes of the templates, and the templates themselves with their elements replaced, for each
        target in the same order. A composition without a template has one answer of the model, without symmetry, and
        none of the lookup.
    """
    untold = replace(targets, formation_energy=np.full(len(targets), np.nan))
    chosen = candidates(untold, ranking, n, use_space_group=False)
    units = units_of(chosen)
    groups = [[one.unit.symmetry if one.source == "template" else 0 for one in several] for several in chosen]
    made = filled(untold, units, sample, groups)
    lent = [[one.unit for one in several if one.source == "template"] for several in chosen]
    looked_up = [[Structure(Lattice(u.lattice), u.species, u.frac_coords) for u in several] for several in lent]
    return made, looked_up


def nth(several: Sequence[Sequence[Structure | None]], n: int) -> list[Structure | None]:
    """The answer at place n, counted from 0, for each target; None where there are fewer."""
    return [few[n] if n < len(few) else None for few in several]


def shared_out(targets: CrystalTable, several: Sequence[Sequence[Structure | None]]) -> list[Structure | None]:
    """One answer a target such that the polymorphs of a formula have different ones while these last: what a set of as
    many answers as references holds, for METRe."""
    met = pd.Series(targets.formula).groupby(targets.formula).cumcount()
    return [few[before % len(few)] if few else None for few, before in zip(several, met, strict=True)]


def with_filtered(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Verdicts (:func:`lib.metrics.matching.match_rows`) and, after them, every row once more, `, filtered`.

    There a match counts only if its composition is neutral (:func:`lib.studies.evaluation.is_neutral`), as the
    literature's validity filter has it; that no atoms overlap is asked of every match.
    """
    neutral = verdicts.formula.map({formula: is_neutral(formula) for formula in set(verdicts.formula)})
    counted = {name: verdicts[name] & neutral for name in verdicts.columns if name.startswith("match_")}
    return pd.concat([verdicts, verdicts.assign(row=verdicts.row + FILTERED, **counted)], ignore_index=True)
