"""Weights for shipping: a trained model at half precision, with what is needed to use it, and a model card.

    python -m lib.ship outputs/mp20/models/generation_transformer_cfm_uniform.safetensors \\
        lib/weights/generation_mp20.safetensors --training outputs/mp20/data/train.parquet \\
        --data "MP-20 (Materials Project)" --licence CC-BY-4.0 --command "make report PROFILE=mp20" \\
        --score mp20.group.match_csp --limit "at most 20 atoms a cell"

The file keeps the model's metadata and adds, under `shipped`, the ranges of the training set, statistics of its sites
and energies (:mod:`lib.retrieval.site_statistics`), its licence, and how the weights were made. It holds no crystal of
the training set. The card `NAME.md` says the same and shows published scores of these weights, which `make publish`
updates.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.core.commands import command
from lib.core.errors import BadInput
from lib.core.files import ROOT, replacing, sha256_of
from lib.core.machine import code_version
from lib.core.run import score_in_words
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable, atomic_volumes
from lib.retrieval.site_statistics import FEW, EnergyStatistics, SiteStatistics
from lib.training.checkpoints import load_weights, save_weights

WEIGHTS = ROOT / "lib" / "weights"
PUBLISHED_SCORES = ROOT / "outputs" / "published" / "scores.json"
SCORE_LINE = re.compile(r"^\| `([\w.]+)` \|", re.MULTILINE)  # of a card
MAX_BYTES = 8_000_000
OPTIONS = {"steps", "sampler", "velocity_scale", "see_templates", "template_start", "guidance"}  # of sampling
MEASURED = (  # for the card: of its scores
    "As notebooks 06, 10 to 13 and, of scores of atoms and cell, 22 measure them; templates, where the network takes "
    "some, are ranked as notebook 04 has learnt to."
)
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
HELD = (  # for the card: what a file says of its training set beside the ranges
    "statistics fitted on the data, under their licence, and no crystal: how many crystals of the same counts per cell "
    f"take each space group and Wyckoff positions; where at least {FEW} do, how often each element stands on each of "
    "the positions, and their mean energy; the same for all rarer ones of the same counts together; formation energies "
    "by pair of elements (regression); atomic volumes by element"
)


@dataclass(frozen=True)
class Shipped:
    """What a shipped model's file says of its training set.

    Attributes:
        crystals: their number.
        elements: atomic numbers.
        n_sites, energy: least and most, of atoms per primitive cell and of formation energies in eV/atom.
        energy_kind: where the energies come from.
        volumes: (119,) Å^3 an atom of each element takes.
        sites, energies: statistics fitted on the training set, see :mod:`lib.retrieval.site_statistics`.
        sampling: options of :meth:`lib.generation.sampling.TrainedModel.generate` that suit the model.
        data, licence: the training set in words, and its licence.
    """

    crystals: int
    elements: tuple[int, ...]
    n_sites: tuple[int, int]
    energy: tuple[float, float]
    energy_kind: str
    volumes: np.ndarray
    sites: SiteStatistics
    energies: EnergyStatistics
    sampling: Mapping[str, object]
    data: str
    licence: str

    @classmethod
    def of(cls, table: CrystalTable, *, data: str, licence: str, sampling: Mapping[str, object]) -> Shipped:
        """Of a training table.

        Raises:
            BadInput: the table is empty.
        """
        if not len(table):
            raise BadInput("the training table is empty; give the one that the model was trained on")
        energies = EnergyStatistics.fit(table)
        return cls(
            crystals=len(table),
            elements=tuple(np.unique(table.species).tolist()),
            n_sites=(int(table.n_sites.min()), int(table.n_sites.max())),
            energy=(round(float(table.formation_energy.min()), 4), round(float(table.formation_energy.max()), 4)),
            energy_kind=table.energy_kind,
            volumes=atomic_volumes(table).round(3),
            sites=SiteStatistics.fit(table, energies),
            energies=energies,
            sampling=dict(sampling),
            data=data,
            licence=licence,
        )

    def to_json(self) -> dict[str, object]:
        """Plain values for a file's metadata."""
        plain = {"volumes": self.volumes.tolist(), "sites": self.sites.to_json(), "energies": asdict(self.energies)}
        return vars(self) | plain

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Shipped:
        """Inverse of :meth:`to_json`; further values are left aside."""
        known = {name: values[name] for name in cls.__dataclass_fields__}
        known |= {name: tuple(known[name]) for name in ("elements", "n_sites", "energy")}
        known["volumes"] = np.array(known["volumes"])
        known["sites"], known["energies"] = (
            SiteStatistics.from_json(known["sites"]),
            EnergyStatistics(**known["energies"]),
        )
        return cls(**known)

    @classmethod
    def within(cls, about: Mapping[str, object], path: str | Path = "the file") -> Shipped:
        """What a model's file says (`about` of :class:`lib.generation.sampling.TrainedModel`).

        Raises:
            BadInput: the file was never exported.
        """
        if "shipped" not in about:
            raise BadInput(f"weights {path} hold no statistics of sites; export them first: python -m lib.ship")
        return cls.from_json(about["shipped"])


def default_weights(name: str) -> Path:
    """The file of weights that ship with the project under this name, such as generation_mp20.

    Raises:
        BadInput: there are none.
    """
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise BadInput(
            f"the weights {path} are missing; check them out again or give others (see lib/generation/ship.py)"
        )
    return path


def halved(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str, float]:
    """The tensors in the 16-bit format that rounds them less.

    Returns:
        The rounded tensors, the format's name, and the error it makes, relative to the weights' norm.

    Raises:
        BadInput: a weight is not finite.
    """
    flat = torch.cat([t.flatten().double() for t in tensors.values()])
    if not torch.isfinite(flat).all():
        raise BadInput("the weights hold numbers that are not finite; train the model again")
    errors = {name: ((flat.to(dtype).double() - flat).norm() / flat.norm()).item() for name, dtype in HALF.items()}
    best = min(errors, key=lambda name: (not np.isfinite(errors[name]), errors[name]))
    return {name: t.to(HALF[best]) for name, t in tensors.items()}, best, errors[best]


def export(
    source: Path,
    target: Path,
    training: CrystalTable,
    *,
    data: str,
    licence: str,
    command: str,
    scores: Sequence[str] = (),
    limits: Sequence[str] = (),
    sampling: Mapping[str, object] | None = None,
) -> Path:
    """Write a finished model for shipping, and its card as `.md` beside it.

    Args:
        source: weights as training left them.
        training: the table they were trained on.
        command: what trains them again.
        scores: ids of published scores that are of this model, for the card.
        limits: what the model cannot do, a sentence each.
        sampling: see :class:`Shipped`.

    Raises:
        BadInput: the weights cannot be read or are too large, or the table is not the one they were trained on.
    """
    tensors, about = load_weights(source, torch.device("cpu"))
    found = {"crystals": len(training), "energy_kind": training.energy_kind, "ids_sha256": training.ids_sha256}
    if any(about["data"].get(name, value) != value for name, value in found.items()):  # earlier files have no ids
        raise BadInput(
            f"{source} was trained on {about['data']['crystals']} crystals with {about['data']['energy_kind']}, the "
            f"training table has {len(training)} with {training.energy_kind}, or others; give the one it was trained on"
        )
    half, precision, error = halved(tensors)
    shipped = Shipped.of(training, data=data, licence=licence, sampling=sampling or {})
    about["data"]["ids_sha256"] = training.ids_sha256
    about["shipped"] = shipped.to_json() | {
        "name": target.stem,
        "precision": precision,
        "rounding_error": error,
        "trained_sha256": sha256_of(source),
        "command": command,
        **code_version(),
        "limits": list(limits),
    }
    size = sum(t.numel() * t.element_size() for t in half.values()) + len(json.dumps(about))
    if size > MAX_BYTES:
        raise BadInput(f"{target} would have {size:,} bytes, more than {MAX_BYTES:,}; train a smaller network")
    save_weights(target, half, about)
    write_card(target, scores)
    return target


def write_card(path: Path, scores: Sequence[str] | None = None, published: Path = PUBLISHED_SCORES) -> Path:
    """Write the card of exported weights, anew where scores have been published since.

    Args:
        path: the weights.
        scores: ids of the scores that it shows; None for those that it shows now.
        published: a `scores.json`; there may be none yet.

    Raises:
        BadInput: the weights cannot be read or were never exported.
    """
    target = path.with_suffix(".md")
    if scores is None:
        scores = SCORE_LINE.findall(target.read_text()) if target.exists() else []
    known = {score["id"]: score for score in json.loads(published.read_text())} if published.exists() else {}
    unknown = {"value": None, "reason": "not published", "n": None, "machine": None}
    text = _card_of(path, [known.get(id, {"id": id} | unknown) for id in scores])
    with replacing(target) as temporary:
        temporary.write_text(text)
    return target


def read_card(path: Path) -> str:
    """The card beside exported weights; where they travelled without it, what the file says of itself.

    Raises:
        BadInput: the weights cannot be read or were never exported.
    """
    beside = path.with_suffix(".md")
    return beside.read_text() if beside.exists() else _card_of(path, [])


def _card_of(path: Path, scores: Sequence[Mapping[str, object]]) -> str:
    about = load_weights(path, torch.device("cpu"))[1]
    Shipped.within(about, path)
    return card(about, sha256_of(path), scores)


def training_in_words(about: Mapping[str, object]) -> str:
    """How long a model was trained, from what its file says of itself."""
    return f"{about['step']:,} steps of {about['settings']['batch_size']} in {about['seconds'] / 3600:.1f} h"


def card(about: Mapping[str, object], checksum: str, scores: Sequence[Mapping[str, object]]) -> str:
    """A model card in Markdown, from what the file says of itself and rows of a `scores.json`."""
    shipped, spec = about["shipped"], about["spec"]
    elements = ", ".join(sorted(SYMBOLS[list(shipped["elements"])]))
    facts = {
        "task": spec["task"],
        "network": f"{spec['network']}, {about['n_parameters']:,} parameters",
        "method": spec["method"],
        "training": training_in_words(about),
        "command": f"`{shipped['command']}`",
        "exported at commit": shipped["commit"] + (" with changes" if shipped["dirty"] else ""),
        "data": f"{shipped['data']}, {shipped['crystals']:,} crystals",
        "licence of the data": shipped["licence"],
        "beside the weights the file holds": HELD,
        "elements": f"{len(shipped['elements'])}: {elements}",
        "atoms per primitive cell": "{} to {}".format(*shipped["n_sites"]),
        "formation energies": "{:.3g} to {:.3g} eV/atom ({})".format(*shipped["energy"], shipped["energy_kind"]),
        "sampling": json.dumps(shipped["sampling"]),
        "precision": f"{shipped['precision']}, relative rounding error {shipped['rounding_error']:.1e}",
        "sha256": f"`{checksum}`",
        "sha256 before rounding": f"`{shipped['trained_sha256']}`",
    }
    lines = [f"# {shipped['name']}", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts.items()), ""]
    lines += ["## Scores", ""]
    if scores:
        lines += [MEASURED, ""]
        lines += ["| score | value (95 % interval) | n | machine |", "|---|---|---|---|"]
        lines += [f"| `{s['id']}` | {score_in_words(s)} | {s['n'] or ''} | {s['machine'] or ''} |" for s in scores]
    else:
        lines += ["None is named."]
    lines += ["", "## Limits", ""]
    lines += [f"- {limit}" for limit in shipped["limits"]] or ["None were given at export."]
    return "\n".join(lines) + "\n"


@command()
def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.ship", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="weights as training left them")
    parser.add_argument("target", type=Path, help="file for the shipped ones")
    parser.add_argument("--training", type=Path, required=True, help="the table they were trained on")
    parser.add_argument("--data", required=True, help="the training data in words")
    parser.add_argument("--licence", required=True, help="of the training data")
    parser.add_argument("--command", required=True, help="what trains them again")
    parser.add_argument("--score", action="append", default=[], help="id of a published score; may be repeated")
    parser.add_argument("--limit", action="append", default=[], help="what the model cannot do; may be repeated")
    parser.add_argument("--sampling", default="{}", help='options that suit the model, such as {"steps": 50}')
    given = parser.parse_args()
    try:
        sampling = json.loads(given.sampling)
    except json.JSONDecodeError as error:
        raise BadInput(f"--sampling {given.sampling!r} is no JSON object ({error})") from error
    if not isinstance(sampling, dict) or not OPTIONS.issuperset(sampling):
        raise BadInput(f"--sampling {given.sampling!r} is no JSON object of options among {', '.join(sorted(OPTIONS))}")
    path = export(
        given.source,
        given.target,
        CrystalTable.from_parquet(given.training),
        data=given.data,
        licence=given.licence,
        command=given.command,
        scores=given.score,
        limits=given.limit,
        sampling=sampling,
    )
    print(f"{path} ({path.stat().st_size:,} bytes) and {path.with_suffix('.md')}")


if __name__ == "__main__":
    main()
