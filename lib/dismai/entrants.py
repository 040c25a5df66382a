"""The benchmark's entrants: models of :mod:`lib.training.registry`, with their sizes and how they are trained.

An entrant is anything with `fit` and `sample` (:class:`lib.entrants.Entrant`); the requests name the composition, and
hold the cell, which is the data set's. Structures of other programs come as files.

What an entrant made is a small file that says how it was made; where that file is, nothing is trained again, also
where the model is gone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.core.files import ROOT, write_json
from lib.core.streams import numpy_stream
from lib.crystals.elements import ALPHABETICAL
from lib.crystals.exchange import read_structures
from lib.crystals.structure_io import told
from lib.crystals.table import CrystalTable
from lib.dismai.alloy import ELEMENTS, LATTICE_CONSTANT
from lib.entrants import checksum
from lib.generation.sampling import load_model
from lib.models.cryingan import GanSizes
from lib.models.crystens import ImageSizes
from lib.models.graph import GraphSizes
from lib.models.transformer import TransformerSizes
from lib.models.unet import UNetSizes
from lib.models.unimat import VideoSizes
from lib.symmetry.packed import PackedUnits
from lib.symmetry.wyckoff import AsymmetricUnit, Site
from lib.training.checkpoints import raw_path
from lib.training.registry import NETWORKS
from lib.training.spec import Sizes, TrainSettings, make_spec
from lib.training.trainer import Trainer

BATCH = 32
DIGITS = 4  # of fractional coordinates of kept structures: 0.001 Å
ORDERS = 49  # copies of each structure in another order of its atoms (sections 4.2.3 and 4.2.4)
GAN_SETTINGS = {  # section 4.2.5 and the published code
    "learning_rate": 5e-5,
    "warmup_steps": 0,
    "betas": (0.5, 0.999),
    "constant_rate": True,
    "max_gradient_norm": None,
    "precision": "fp32",
}
_QUARTER = GanSizes(channels=32, critic=128)
_UNET = UNetSizes(32, (1, 2), 1, (1, 2), 24, 64)
_IMAGES, _VIDEOS = ImageSizes(16, (1, 2)), VideoSizes(32, 3)


@dataclass(frozen=True)
class Learned:
    """An entrant that is a network and a method of the registry, trained by the one training loop.

    Attributes:
        task, network, method: names in :mod:`lib.training.registry`.
        sizes: of the network.
        settings: of :class:`lib.training.spec.TrainSettings`, beside the steps.
        translations: whether alloys are also shown moved by each lattice vector of their conventional cells, as for
            CryinGAN (section 4.2.5).
        shuffled: whether it is also shown ORDERS copies of each structure with the atoms of each element in another,
            random order (S20). Else they come in the order of their coordinates.
        inference_steps: of a sample.
        raw: whether the weights of the last step are sampled, as the published GAN's are, or their average.
        steps: of the training.
    """

    task: str
    network: str
    method: str
    sizes: Sizes
    settings: Mapping[str, object] = field(default_factory=dict)
    translations: bool = False
    shuffled: bool = False
    inference_steps: int = 50
    raw: bool = False
    steps: int = 1000

    def fit(
        self, training: CrystalTable, validation: CrystalTable, *, folder: Path, device: torch.device, seed: int
    ) -> None:
        """Train in `folder`; an interrupted training goes on."""
        training.to_parquet(folder / "training.parquet")
        tables = [self._seen(table) for table in (training, validation)]
        often = max(1, self.steps // 10)
        how = {"batch_size": BATCH, "validate_every": often, "checkpoint_every": often, "ema_decay": 0.999}
        settings = TrainSettings(self.steps, **how | dict(self.settings), seed=seed, keep_raw=self.raw)
        spec = make_spec(self.task, self.network, self.method, tables[0], self.sizes)
        Trainer(spec, *tables, settings, folder / "model.safetensors", device).run()

    def sample(
        self, requests: CrystalTable, *, folder: Path, device: torch.device, seed: int
    ) -> list[Structure | None]:
        """Structures in the data set's cell. The energies that a model is asked for are drawn from the training set."""
        path = folder / "model.safetensors"
        model, training = (
            load_model(raw_path(path) if self.raw else path, device),
            CrystalTable.from_parquet(folder / "training.parquet"),
        )
        energy = numpy_stream(seed, "energies").choice(training.formation_energy, len(requests))
        species = [requests.species_of(i) for i in range(len(requests))]
        asked = species, np.ones(len(requests), dtype=int), energy
        made = model.generate(*asked, steps=self.inference_steps, batch_size=64, seed=seed, resume=folder / "samples")
        cell = Lattice(training.lattice[0])
        return [s and Structure(cell, s.species, s.frac_coords) for s in made]

    def _seen(self, table: CrystalTable) -> CrystalTable:
        """The table as the network sees it: moved copies, and every atom a site of its own, whatever the symmetry."""
        if self.translations:
            table = translated(table)
        if self.shuffled:
            table = reordered(table)
        if NETWORKS[self.network].open_conditions:
            rows = zip(table.lattice, map(table.frac_coords_of, range(len(table))), strict=True)
            sites = [
                (lattice, tuple(Site(int(z), 0, x) for z, x in zip(table.species_of(i), coords, strict=True)))
                for i, (lattice, coords) in enumerate(rows)
            ]
            table = replace(table)
            vars(table)["asymmetric_units"] = PackedUnits.of(AsymmetricUnit(lattice, 1, s) for lattice, s in sites)
        return table


def translated(table: CrystalTable) -> CrystalTable:
    """Every structure, and its copies moved by the lattice vectors of the alloys' conventional cells. Other materials,
    which have none, are as they are (section 4.2.5)."""
    if set(table.species.tolist()) != set(ELEMENTS):
        return table
    n = round(float(np.linalg.norm(table.lattice[0, 0]) / LATTICE_CONSTANT))
    steps = np.indices((n, n, n)).reshape(3, -1).T / n
    moved = np.concatenate([table.frac_coords + step for step in steps])
    return CrystalTable.pack(
        id=[f"{name}_{i}" for i in range(len(steps)) for name in table.id],
        lattice=np.tile(table.lattice, (len(steps), 1, 1)),
        frac_coords=moved,
        species=np.tile(table.species, len(steps)),
        n_sites=np.tile(table.n_sites, len(steps)),
        formation_energy=np.tile(table.formation_energy, len(steps)),
        space_group=np.tile(table.space_group, len(steps)),
        energy_kind=table.energy_kind,
    )


def reordered(table: CrystalTable) -> CrystalTable:
    """Every structure, and ORDERS copies with the atoms of each element in another order."""
    copies = table.take(np.tile(np.arange(len(table)), 1 + ORDERS))
    crystal = np.repeat(np.arange(len(copies)), copies.n_sites)
    chance = numpy_stream(0, "order of atoms").random(len(copies.species))
    chance[: len(table.species)] = np.arange(len(table.species))  # the structures themselves stay as they are
    order = np.lexsort((chance, ALPHABETICAL[copies.species], crystal))
    names = [f"{name}_{i // len(table)}" for i, name in enumerate(copies.id)]
    return replace(copies, id=np.array(names), frac_coords=copies.frac_coords[order])


_CRYSTENS = Learned("one_cell", "crystens", "ddpm_cell", _IMAGES, {"learning_rate": 1e-3}, inference_steps=100)
_UNIMAT = replace(_CRYSTENS, network="unimat", sizes=_VIDEOS)
ENTRANTS = {
    "CryinGAN": Learned("one_cell", "cryingan", "wgan", _QUARTER, GAN_SETTINGS, translations=True, raw=True),
    "CryinGAN, repaired": Learned("one_cell", "cryingan_repaired", "wgan_repaired", _QUARTER, GAN_SETTINGS),
    "CryinGAN, published size": Learned("one_cell", "cryingan", "wgan", GanSizes(), GAN_SETTINGS, True, raw=True),
    "graph": Learned(
        "one_cell", "graph", "wrapped_cell", GraphSizes(64, 4, 10), {"learning_rate": 1e-3}, inference_steps=100
    ),
    "transformer": Learned(
        "generation", "transformer", "cfm_uniform", TransformerSizes(64, 4, 4), {"learning_rate": 1e-3}
    ),
    "transformer, wrapped diffusion": Learned(
        "generation", "transformer", "wrapped", TransformerSizes(64, 4, 4), {"learning_rate": 1e-3}, inference_steps=100
    ),
    "UNet": Learned("generation", "paper", "cfm_uniform", _UNET, {"learning_rate": 1e-3}),
    "UNet, periodic": Learned("generation", "periodic", "cfm_uniform", _UNET, {"learning_rate": 1e-3}),
    "CrysTens": _CRYSTENS,
    "CrysTens, shuffled order": replace(_CRYSTENS, shuffled=True),
    "UniMat": _UNIMAT,
    "UniMat, shuffled order": replace(_UNIMAT, shuffled=True),
}
"""By name: what is trained where nothing else is said, at sizes for alloys of 32 atoms on a CPU."""

_GAN = ENTRANTS["CryinGAN"]
VARIANTS = {  # of CryinGAN (Figures 5 and 7, S15 to S17)
    "lambda 0": replace(_GAN, sizes=replace(_QUARTER, critics="coordinates")),
    "lambda 0.01": replace(_GAN, method="wgan_001"),
    "lambda 0.05": replace(_GAN, method="wgan_005"),
    "lambda 0.1": _GAN,
    "comb": replace(_GAN, sizes=replace(_QUARTER, critics="combined")),
    "max": replace(_GAN, sizes=replace(_QUARTER, pooling="max")),
    "mix": replace(_GAN, sizes=replace(_QUARTER, pooling="mix")),
    "CGCNN critic": replace(_GAN, sizes=replace(_QUARTER, critics="graph")),
}
EQUAL_TIME = 3  # steps of one critic in the time of a step of two: here, on a core; some 2 in the paper (section 2.4)


def entrant_of(name: str, steps: int) -> Learned:
    """An entrant of ENTRANTS, trained for so many steps.

    Raises:
        BadInput: none is called so.
    """
    if name not in ENTRANTS:
        raise BadInput(f"entrant {name!r} is not known; choose one of {', '.join(ENTRANTS)}, or give a file")
    return replace(ENTRANTS[name], steps=steps)


def structures_of(
    entrant: Learned | Path,
    training: CrystalTable,
    validation: CrystalTable,
    n: int,
    *,
    folder: Path,
    kept: Path,
    device,
    seed: int,
) -> Sequence[Structure | None]:
    """n structures of an entrant, which is fitted first, or of a file; those that a file lacks are None, and all of an
    entrant whose training diverges.

    Args:
        entrant: a file by its path from the root of the repository.
        folder: of the training; an interrupted one goes on.
        kept: a parquet file that takes the structures, and gives them back where it is there already.

    Raises:
        BadInput: the file does not read or holds more; or what lies in `folder` or `kept` was made otherwise or from
            other crystals.
    """
    if isinstance(entrant, Path):
        structures, about = _of_file(entrant, n), {}
    else:
        data = {"crystals of sha256": checksum(training, validation), "seed": seed}
        made_by = json.loads(json.dumps(asdict(entrant) | data))
        if kept.exists() and "made_by" in (about := CrystalTable.from_parquet(kept).about):
            _check_same(about["made_by"], made_by, kept)
            if about["asked"] == n:
                print(f"{kept.name} is kept of an earlier run" + about["diverged"])
                return structures_among(kept, n)
            if not (folder / "model.safetensors").exists():
                raise BadInput(
                    f"{kept} holds the answers to {about['asked']} requests, not to {n}, and the model that could make "
                    f"more is gone from {folder}; set 'n_generated' to {about['asked']}, or delete it to train again"
                )
        structures, diverged = _learnt(entrant, training, validation, n, made_by, folder, device)
        about = {"made_by": made_by, "asked": n, "diverged": diverged} | _training_of(folder)
    generated_table(structures).with_notes(about=about).to_parquet(kept)
    return structures_among(kept, n)


def _of_file(path: Path, n: int) -> list[Structure | None]:
    left_out: dict[str, str] = {}
    found: list[Structure | None] = list(read_structures([ROOT / path], left_out).values())
    if left_out:
        print(told(left_out, len(found) + len(left_out)))
    if len(found) > n:
        raise BadInput(f"{path} holds {len(found)} structures, more than the {n} asked for; raise 'n_generated'")
    return found + [None] * (n - len(found))


def _learnt(
    entrant: Learned,
    training: CrystalTable,
    validation: CrystalTable,
    n: int,
    made_by: dict,
    folder: Path,
    device: torch.device,
) -> tuple[Sequence[Structure | None], str]:
    """The answers of an entrant that is fitted, and why there are none, or ""."""
    folder.mkdir(parents=True, exist_ok=True)
    record, how = folder / "made_by.json", {"folder": folder, "device": device, "seed": made_by["seed"]}
    if record.exists():
        _check_same(json.loads(record.read_text()), made_by, folder)
    try:
        if not (record.exists() and (folder / "model.safetensors").exists()):
            write_json(record, made_by)
            entrant.fit(training, validation, **how)
    except FloatingPointError as error:
        print(diverged := f"{folder.name} made nothing, since its training diverged: {error}")
        return [None] * n, f": {diverged}"
    return entrant.sample(training.take(np.zeros(n, dtype=int)), **how), ""


def _check_same(found: Mapping, mine: Mapping, path: Path) -> None:
    """Raises BadInput if what lies at a path was made otherwise than it would be now."""
    for key in mine:
        if found.get(key) != mine[key]:
            raise BadInput(
                f"{path} was made with {key} = {found.get(key)!r}, this run has {mine[key]!r}; delete it or choose "
                "another run name"
            )


def _training_of(folder: Path) -> dict[str, object]:
    """How long the training in a folder took (s), and its losses."""
    path = folder / "model.json"
    about = json.loads(path.read_text()) if path.exists() else {}
    return {"seconds": about.get("seconds"), "history": about.get("history", [])}


def seconds_of(kept: Path) -> float:
    """How long the training took that made a kept file, s; nan for a file of another program."""
    seconds = CrystalTable.from_parquet(kept).about.get("seconds")
    return float("nan") if seconds is None else seconds


def history_of(kept: Path) -> pd.DataFrame:
    """Step, training and validation loss of the entrant that made a kept file; nothing where its training ended before
    the first."""
    history = CrystalTable.from_parquet(kept).about.get("history", [])
    return pd.DataFrame(history, columns=["step", "training", "validation"])


# ---- files of what they made -----------------------------------------------------------------------------------------


def slug(dataset: str, entrant: str, training: int) -> str:
    """A file name."""
    return f"{dataset}_{re.sub(r'[^a-z0-9]+', '_', entrant.lower())}_{training}"


def generated_table(structures: Sequence[Structure | None]) -> CrystalTable:
    """Those that came, named by their places, with coordinates of DIGITS digits."""
    came = [i for i, structure in enumerate(structures) if structure is not None]
    table = CrystalTable.from_structures(
        [structures[i] for i in came],
        id=[str(i) for i in came],
        formation_energy=np.full(len(came), np.nan),
        space_group=[1] * len(came),
        energy_kind="not given",
    )
    return replace(table, frac_coords=table.frac_coords.round(DIGITS) % 1)


def structures_among(path: Path, asked: int) -> list[Structure | None]:
    """What :func:`generated_table` kept, in its places; None for the others."""
    table = CrystalTable.from_parquet(path)
    found = dict(zip(map(int, table.id), table.structures(), strict=True))
    return [found.get(i) for i in range(asked)]
