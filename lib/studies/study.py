"""What notebooks 10 to 13 have in common, and the plan and table of an ablation."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.run import Run
from lib.core.stats import cells, direction, paired_difference
from lib.crystals.table import CrystalTable
from lib.generation.sampling import TrainedModel, load_model
from lib.metrics.matching import rate_table
from lib.retrieval.candidates import Ask
from lib.retrieval.template_ranking import LearntRanking
from lib.retrieval.templates import ElementRanking, Ranking
from lib.studies.evaluation import crystal_structure_prediction

BASE = "base"
FULL, NO_ENERGY, NO_GROUP, COMPOSITION = (Ask(group, energy) for group in (True, False) for energy in (True, False))
NO_SITES = Ask(sites="none")
ASKS = [FULL, NO_ENERGY, NO_GROUP, COMPOSITION, NO_SITES, Ask(sites="own"), Ask(sites="nearest template")]
ASKS += [Ask(untold="group"), Ask(untold="energy")]
BY_ENERGY = Ask(group=False, sites="energy ranking")
STEERED = [FULL, NO_GROUP, NO_SITES, BY_ENERGY]  # the energy steers more and more of what is drawn
PRODUCERS = {"generation": "04_train_generation", "modification": "05_train_modification"}
OWN = ("model", "told", "against")  # of an ablation's options, those that are not the sampler's


def rankings_of(run: Run) -> dict[str, Ranking]:
    """Rankings of the templates in the run's training set, by :attr:`lib.retrieval.candidates.Ask.sites`."""
    train = CrystalTable.from_parquet(run.upstream("data/train.parquet", "02_polymorph_dataset"))
    learnt_of = (run.upstream(f"data/template_{n}.parquet", "04_train_generation") for n in ("examples", "choices"))
    settings = {"seed": run.params.seed, "n_workers": run.params.n_workers}
    learnt = LearntRanking.learn(train, *map(pd.read_parquet, learnt_of), **settings)
    return {"template": learnt, "nearest template": ElementRanking(train)}


def sample(run: Run, task: str, model: str, **request) -> list[Structure | None]:
    """Structures of a model that the run has trained, one a request of
    :meth:`lib.generation.sampling.TrainedModel.generate`; what it leaves open is as the run's parameters say."""
    p, weights = run.params, run.upstream(f"models/{task}_{model}.safetensors", PRODUCERS[task])
    settings = {"steps": p.inference_steps, "velocity_scale": p.velocity_scale, "template_start": p.template_start}
    settings |= {"batch_size": p.batch_size, "seed": run.seed, "resume": run.resume}
    return load_model(weights, run.device).generate(**settings | request)


def note(run: Run, name: str, table: pd.DataFrame, row: str, column: str, unit: str) -> None:
    """Score one number of a table by its row, with its interval."""
    line = table.set_index("row").loc[row] if row in set(table.row) else {column: np.nan}
    ci = (line.get(f"{column}_low"), line.get(f"{column}_high"))
    reason = "no case in this run" if np.isnan(line[column]) else None
    run.score(name, line[column], f"{unit} ({row})", n=int(line.get("n", 0)), ci=ci, reason=reason)


def with_metre(
    table: pd.DataFrame, targets: CrystalTable, answers: Mapping[str, Sequence[Structure | None]], **matching
) -> pd.DataFrame:
    """A :func:`lib.metrics.matching.rate_table` by row with METRe and cRMSE of :mod:`lib.studies.evaluation`, at CSP
    tolerances: columns metre, metre_low, metre_high, crmse, crmse_low and crmse_high; nan for a row without answers."""
    scores, ends = {"metre": "METRe, csp", "crmse": "cRMSE, csp"}, {"": "value", "_low": "ci_low", "_high": "ci_high"}
    found = {row: {f"{name}{end}": np.nan for name in scores for end in ends} for row in answers}
    for row, structures in answers.items():
        given = {name: s for name, s in zip(targets.id.tolist(), structures, strict=True) if s is not None}
        if given:
            of = crystal_structure_prediction(targets, given, **matching).set_index("score")
            found[row] = {n + end: of.loc[score, column] for n, score in scores.items() for end, column in ends.items()}
    return table.join(pd.DataFrame(found).T.astype(float), on="row")


def with_any(verdicts: pd.DataFrame, name: str, rows: Sequence[str]) -> pd.DataFrame:
    """Verdicts (:func:`lib.metrics.matching.match_rows`) with one more row, true where that of any of some rows is.

    Distances are those of the nearest.
    """
    several = verdicts[verdicts.row.isin(rows)]
    how = {column: "max" if column.startswith("match_") else "first" for column in several.columns}
    how |= {column: "min" for column in ("rms", "rms_angstrom", "invalid") if column in how}
    nearest = several.groupby("target", sort=False, as_index=False).agg(how).assign(row=name)
    return pd.concat([verdicts, nearest[verdicts.columns]], ignore_index=True)


@dataclass(frozen=True)
class Variant:
    """One line of the ablation table."""

    model: str  # network_method of the weights
    against: str  # the line that it differs from in what `changed` says
    changed: str  # that, in words
    ask: Ask  # what the model is told
    options: dict[str, object]  # further ones of lib.generation.sampling.TrainedModel.generate


def variants(ablation: Mapping[str, Mapping[str, object]], model: str) -> dict[str, Variant]:
    """The lines of an ablation table, the base first.

    Args:
        ablation: row -> what it changes of the row it stands `against` (another row; "base" where it says nothing):
            `model` (other weights), `told` (the label of one of ASKS), or any option of
            :meth:`lib.generation.sampling.TrainedModel.generate`, such as steps.
        model: of the base, which is told everything.

    Raises:
        BadInput: an option, a request or a row that there is not.
    """
    plan, by_label = {BASE: Variant(model, "", "", FULL, {})}, {ask.label: ask for ask in ASKS}
    known = {*inspect.signature(TrainedModel.generate).parameters, *OWN} - {"self"}
    for row, changes in ablation.items():
        if unknown := sorted(set(changes) - known):
            words = ", ".join(sorted(known))
            raise BadInput(f"ablation {row!r} has {', '.join(unknown)}, which a model does not know; it knows {words}")
        against, asked = str(changes.get("against", BASE)), changes.get("told")
        if against not in plan:
            raise BadInput(f"ablation {row!r} is against {against!r}, which no row before it is called")
        if asked is not None and asked not in by_label:
            raise BadInput(f"ablation {row!r} is told {asked!r}; choose one of {', '.join(map(repr, by_label))}")
        base = plan[against]
        changed = ", ".join(f"{name} = {value}" for name, value in changes.items() if name != "against")
        options = base.options | {name: value for name, value in changes.items() if name not in OWN}
        ask = by_label[asked] if asked else base.ask
        plan[row] = Variant(str(changes.get("model", base.model)), against, changed, ask, options)
    return plan


def ablation_table(
    verdicts: pd.DataFrame, plan: Mapping[str, Variant], *, subsets: Mapping[str, np.ndarray] | None = None
) -> pd.DataFrame:
    """Match rates of each line, and its paired difference from the line that it stands against, at CSP tolerances.

    The verdicts are those of the lines that this run has, the plan is that of :func:`variants`, and subsets are as of
    :func:`lib.metrics.matching.rate_table`.

    Returns:
        row, changed, against, n, the match rates, those of the subsets, difference with difference_low and
        difference_high, and verdict: "more", "less", "unresolved", or "not in this run".
    """
    of_row = dict(iter(verdicts.groupby("row", sort=False)))
    rates = rate_table(verdicts, ["row"], subsets=subsets).set_index("row")
    lines = []
    for row, variant in plan.items():
        line: dict[str, object] = {"row": row, "changed": variant.changed, "against": variant.against}
        if row not in of_row:
            lines.append(line | {"n": 0, "verdict": "not in this run"})
            continue
        line |= rates.loc[row].to_dict()
        if variant.against in of_row:
            one, other = of_row[row], of_row[variant.against]
            rate = paired_difference(one.match_csp, other.match_csp, one.formula)
            line |= cells({"difference": rate}) | {"verdict": direction(rate)}
        lines.append(line)
    compared = ["difference", "difference_low", "difference_high", "verdict"]
    table = pd.DataFrame(lines).reindex(columns=["row", "changed", "against", *rates.columns, *compared])
    return table.astype({name: "Int64" for name in table.columns if name in ("n", "invalid") or name.startswith("n, ")})
