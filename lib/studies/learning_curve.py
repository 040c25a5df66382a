"""Results against the number of training crystals: a transformer that starts from weights, and one from nothing.

All trainings have the same number of samples, the same representation and the same targets, so that their losses can be
compared; shares of the training set are nested and hold whole formulas. The Wyckoff positions that the atoms are kept
to when sampling are those that crystals of the same share take.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from lib.core import stats
from lib.core.errors import BadInput
from lib.core.run import Run
from lib.core.streams import numpy_stream, torch_stream
from lib.core.workers import progress
from lib.crystals.table import CrystalTable
from lib.generation.sampling import TrainedModel, load_model
from lib.metrics.matching import compare_rows, match_rows
from lib.retrieval.candidates import Ask, request
from lib.retrieval.templates import ElementRanking
from lib.studies.params import SamplingParams, TrainGenerationParams
from lib.training.registry import NETWORKS
from lib.training.trainer import Trainer

WEIGHTS, NOTHING = "weights", "nothing"
DRAWS = 16  # times and noises over which a crystal's loss is averaged
COLUMNS = ["model", "start", "crystals", "formulas", "n"]


@dataclass(frozen=True)
class Point:
    """One training of the curve: what it starts from (WEIGHTS or NOTHING), and on which share of the crystals."""

    trainer: Trainer
    start: str
    share: float


def curve_points(
    run: Run[TrainGenerationParams],
    models: Sequence[Trainer],
    training: CrystalTable,
    validation: CrystalTable,
    on_validation: Callable[[str], Callable] | None = None,
) -> list[Point]:
    """The trainings that `learning_curve` and `compare_from_nothing` ask for; none where they ask for nothing.

    One of the models, those of :func:`lib.studies.model_plan.trainers`, is the point of the whole training set. Raises
    BadInput if a transformer without weights is to be compared with one that starts from some.
    """
    p = run.params
    if not (p.learning_curve or p.compare_from_nothing):
        return []
    short = [m for m in models if m.name == m.spec.name]
    transformers = [m for m in short if NETWORKS[m.spec.network].open_conditions]
    whole = next((m for m in transformers if m.parent), transformers[-1])
    if p.compare_from_nothing and not whole.parent:
        raise BadInput(f"'compare_from_nothing' is for the transformer, and {p.init_weights} is none; switch it off")
    starts = [WEIGHTS] * bool(whole.parent) + [NOTHING] * bool(p.compare_from_nothing or not whole.parent)
    points = []
    for start in starts:
        for share in sorted({*p.learning_curve, 1.0}):
            if share == 1 and start == starts[0]:
                points.append(Point(whole, start, share))
                continue
            name = f"{whole.spec.name}_from_{start}_{100 * share:g}"
            path = run.path(f"models/{name}.safetensors")
            run.path(f"models/{name}.json")
            table = training if share == 1 else training.take(share_of(training, share, run.seed))
            options = {"on_validation": on_validation(name)} if on_validation else {}
            parent = whole.parent if start == WEIGHTS else None
            trainer = Trainer(whole.spec, table, validation, whole.settings, path, run.device, parent=parent, **options)
            points.append(Point(trainer, start, share))
    return points


def share_of(table: CrystalTable, share: float, seed: int) -> np.ndarray:
    """Rows of whole reduced formulas, as many at random as hold a share of the crystals; larger shares add to them."""
    codes, formulas = pd.factorize(table.reduced_formula)
    order = numpy_stream(seed, "shares of the training set").permutation(len(formulas))
    held = np.cumsum(np.bincount(codes)[order])
    n_formulas = 1 + int(np.searchsorted(held, share * len(table)))
    return np.flatnonzero(np.isin(codes, order[:n_formulas]))


@torch.no_grad()
def crystal_losses(model: TrainedModel, table: CrystalTable, seed: int) -> np.ndarray:
    """(n,) loss of a generation model at each crystal, the mean over DRAWS times and noises."""
    crystals = model.representation.pack(table)
    losses = []
    for i in progress(range(len(table)), desc=f"losses of {model.spec.name}", unit="crystal"):
        same = torch.full((DRAWS,), i)
        batch = model.representation.trim(crystals[same].to(model.device))
        draw = model.method.draw(batch, torch_stream(model.device, seed, "loss of a crystal", str(table.id[i])))
        losses.append(model.method.losses(model.net, batch, draw).mean().item())
    return np.array(losses)


def curve_scores(
    run: Run[TrainGenerationParams], points: Sequence[Point], validation: CrystalTable
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Loss and match rate of the trained points, on the same `curve_targets` crystals of the validation set.

    Returns:
        One row a point: model, start, crystals and formulas it learnt from, n targets, and loss, default and csp
        (match rates, see :mod:`lib.metrics.matching`) with `_low` and `_high`, 95 % intervals (:mod:`lib.core.stats`).
        And, where both starts saw the whole training set, :func:`lib.metrics.matching.compare_rows` of weights against
        nothing.
    """
    rng = numpy_stream(run.seed, "learning curve")
    targets = validation.take(np.sort(rng.permutation(len(validation))[: run.params.curve_targets]))
    if not points:
        return pd.DataFrame(columns=COLUMNS), pd.DataFrame()
    usual, losses, structures = SamplingParams(), {}, {}
    settings = {"steps": usual.inference_steps, "velocity_scale": usual.velocity_scale}
    settings |= {"seed": run.seed, "resume": run.resume}
    for point in points:
        model = load_model(point.trainer.path, run.device)
        losses[point.trainer.name] = crystal_losses(model, targets, run.seed)
        asked = request(Ask(), targets, {"template": ElementRanking(point.trainer.data.table)})
        structures[point.trainer.name] = model.generate(**asked, **settings)
    matching = {"n_workers": run.params.n_workers, "resume": run.resume / "verdicts.jsonl"}
    verdicts = match_rows(targets, structures, **matching)
    rows = []
    for point in points:
        name, table = point.trainer.name, point.trainer.data.table
        hits = verdicts[verdicts.row == name]
        rates = {"loss": stats.mean(losses[name], targets.reduced_formula)}
        for score in ("default", "csp"):
            rates[score] = stats.share(hits[f"match_{score}"].to_numpy(), targets.reduced_formula)
        numbers = (name, point.start, len(table), len(np.unique(table.reduced_formula)), len(targets))
        rows.append(dict(zip(COLUMNS, numbers, strict=True)) | stats.cells(rates))
    whole = {point.start: point.trainer.name for point in points if point.share == 1}
    claims = compare_rows(verdicts, whole[WEIGHTS], whole[NOTHING]) if len(whole) == 2 else pd.DataFrame()
    return pd.DataFrame(rows), claims
