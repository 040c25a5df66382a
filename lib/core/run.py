"""The run context: validated parameters, seed, device, output folder, and a manifest of what was read and made.

A notebook starts with its `parameters` cell, hands the values to :meth:`Run.start` in the next cell, asks the run for
every path it reads (:meth:`Run.upstream`) or writes (:meth:`Run.path`, :meth:`Run.table`, :meth:`Run.figure`), and
ends with :meth:`Run.finish`, which writes `outputs/<run>/manifests/<notebook>.json`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import math
import random
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from lib.core.errors import BadInput
from lib.core.files import ROOT, parquet_flaw, read_json, replacing, sha256_of, write_json
from lib.core.machine import code_version, hardware, measured_by, torch_device
from lib.core.parameters import Params, literal_assignments, validated

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

_RSS_PER_GIB = 2**30 if sys.platform == "darwin" else 2**20
REPORTED_PACKAGES = ["torch", "numpy", "pymatgen-core", "spglib", "ase", "chgnet", "mendeleev", "papermill", "pydantic"]
P = TypeVar("P", bound=Params)


def drawn_numbers(figure: Figure) -> list[list[float]]:
    """Of each coordinate of each series that a figure draws (lines, points, bars), in order: how many finite values,
    their mean and their standard deviation, to six digits."""
    series = []
    for axes in figure.axes:
        series += [line.get_xydata() for line in axes.lines]
        series += [points.get_offsets() for points in axes.collections if len(points.get_offsets()) > 1]
        series.append([(bar.get_width(), bar.get_height()) for bar in axes.patches if hasattr(bar, "get_height")])
    found = []
    for values in series:
        for column in np.ma.filled(np.ma.asarray(values, dtype=float), np.nan).reshape(-1, 2).T:
            known = column[np.isfinite(column)]
            if len(known):
                found.append([len(known), float(f"{known.mean():.6g}"), float(f"{known.std():.6g}")])
    return found


class Run(Generic[P]):
    """One notebook's execution in `outputs/<run>/`.

    Attributes:
        params: the validated parameters.
        folder: `outputs/<run>`.
        rng: numpy generator seeded from `params.seed` and the notebook's name, or its `seeded_as`.
    """

    def __init__(self, params: P, root: Path = ROOT / "outputs") -> None:
        self.params = params
        self.folder = root / params.run
        self.started = time.time()
        seeded_as = f"{params.seeded_as or params.notebook}:{params.seed}"
        self.seed = int.from_bytes(hashlib.sha256(seeded_as.encode()).digest()[:4], "big")
        self.rng = np.random.default_rng(self.seed)
        self._inputs: dict[str, str] = {}
        self._outputs: dict[str, dict[str, str]] = {}
        self._scores: list[dict[str, object]] = []
        self._findings: list[str] = []
        random.seed(self.seed)
        np.random.seed(self.seed)  # libraries that take no generator

    @classmethod
    def start(cls, model: type[P], namespace: Mapping[str, object]) -> Run[P]:
        """Validate the notebook's parameter cells and open the run; call it as `Run.start(XParams, globals())`.

        papermill only warns of names that a notebook does not know, so the names come from what the cells assigned.
        Raises BadInput for an unknown or impossible parameter.
        """
        import pandas as pd

        pd.set_option("display.max_colwidth", None)  # nothing that a table says is cut
        pd.set_option("display.precision", 4)  # the csv beside it has all digits
        pd.set_option("display.max_columns", None)  # of wide tables pandas leaves out the columns in the middle
        names = literal_assignments(namespace.get("In", [])[:-1])
        run = cls(validated(model, {name: namespace[name] for name in names if name in namespace}))
        run.seed_torch()
        return run

    @property
    def resume(self) -> Path:
        """Folder for what an interrupted execution takes up again; :meth:`finish` removes it."""
        folder = self.folder / f".resume_{self.params.notebook}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seed_torch(self) -> None:
        """Seed torch and give it this run's number of threads."""
        import torch

        torch.manual_seed(self.seed)
        torch.set_num_threads(self.params.n_workers)

    @functools.cached_property
    def device(self) -> torch.device:
        """The torch device that `params.device` asks for, by :func:`lib.core.machine.torch_device`."""
        return torch_device(self.params.device)

    def upstream(self, name: str, producer: str) -> Path:
        """Path of a file that an earlier notebook of this run wrote, noted as an input. Raises BadInput if it is
        missing, or no whole parquet file: run that notebook first."""
        path, manifest = self.folder / name, self.folder / "manifests" / f"{producer}.json"
        made = read_json(manifest)["outputs"] if manifest.exists() else {}
        again = f"; delete {manifest} and give the same command again" if name in made else ""
        if not path.exists() and made and not again:
            raise BadInput(f"{producer} has ended without {path}; change its parameters so that it makes it, or these")
        if not path.exists():
            raise BadInput(f"run {producer} first: {path} is missing{again}")
        if path.suffix == ".parquet" and (flaw := parquet_flaw(path)):
            raise BadInput(f"{path} is damaged ({flaw}){again or f'; run {producer} again'}")
        return self.input(path)

    def input(self, path: str | Path) -> Path:
        """Note a file as an input, with its checksum."""
        path = Path(path)
        names = (path.relative_to(folder) for folder in (self.folder, ROOT) if path.is_relative_to(folder))
        self._inputs[str(next(names, path))] = sha256_of(path)
        return path

    def path(self, name: str, caption: str = "") -> Path:
        """Path of a file that this notebook writes, noted as an output."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._outputs[name] = {"caption": caption}
        return path

    def table(self, frame: pd.DataFrame, name: str, caption: str) -> pd.DataFrame:
        """Write `tables/<name>.csv` and return the frame, for the cell to show."""
        with replacing(self.path(f"tables/{name}.csv", caption)) as temporary:
            frame.to_csv(temporary, index=frame.index.name is not None)
        return frame

    def figure(self, figure: Figure | str, name: str, caption: str):
        """Write `figures/<name>.png` and `.svg` and return the picture, for the cell to show.

        The png has a palette of 256 colours and carries :func:`drawn_numbers` as its description. Where there was
        nothing to draw, `figure` is the sentence that says why: it is printed, and no file is left.
        """
        import matplotlib.pyplot as plt
        from IPython.display import Image as Shown
        from PIL import Image, PngImagePlugin

        if isinstance(figure, str):
            for suffix in (".svg", ".png"):  # of an earlier execution
                (self.folder / f"figures/{name}{suffix}").unlink(missing_ok=True)
            return print(figure)
        drawn, about = io.BytesIO(), PngImagePlugin.PngInfo()
        about.add_text("Description", json.dumps(drawn_numbers(figure)))
        with replacing(self.path(f"figures/{name}.svg", caption)) as temporary:
            figure.savefig(temporary, format="svg", bbox_inches="tight", metadata={"Date": None})
        figure.savefig(drawn, format="png", bbox_inches="tight", dpi=150)
        with replacing(self.path(f"figures/{name}.png", caption)) as temporary:
            colours = {"method": Image.Quantize.MAXCOVERAGE, "kmeans": 1, "dither": Image.Dither.NONE}
            picture = Image.open(drawn).convert("RGB").quantize(**colours)
            picture.save(temporary, "PNG", dpi=(150, 150), pnginfo=about, optimize=True)
        plt.close(figure)
        width = int(figure.get_figwidth() * 96)
        return Shown(filename=str(self.folder / f"figures/{name}.png"), alt=caption, width=width)

    def finding(self, *sentences: str | None):
        """Note what was found (:mod:`lib.report.findings`) for the top of the report, and return it, for the cell to
        show."""
        from IPython.display import Markdown

        self._findings = [sentence for sentence in sentences if sentence]
        return Markdown("\n".join(f"- {sentence}" for sentence in self._findings))

    def score(
        self,
        id: str,
        value: float | None,
        unit: str,
        *,
        n: int | None = None,
        ci: tuple[float, float] | tuple[None, None] = (None, None),
        reason: str | None = None,
    ) -> None:
        """Note a headline number for `scores.json`; a value of None or NaN needs the reason why there is none."""
        value, low, high = (None if number is None else float(number) for number in (value, *ci))
        value = None if value is None or not math.isfinite(value) else value
        if value is None and not reason:
            raise ValueError(f"score {id} has no value and no reason")
        made = measured_by(self.params.command.format(run=self.params.run))
        line = {"id": id, "value": value, "unit": unit, "n": n, "ci_low": low, "ci_high": high}
        self._scores.append(line | made | ({"reason": reason} if reason else {}))

    def finish(self) -> dict[str, object]:
        """Write the notebook's manifest and return it."""
        files = {name: about for name, about in self._outputs.items() if (self.folder / name).is_file()}
        outputs = {name: about | {"sha256": sha256_of(self.folder / name)} for name, about in files.items()}
        manifest = {
            "notebook": self.params.notebook,
            "command": self.params.command.format(run=self.params.run),
            "parameters": self.params.model_dump(),
            "seed": self.seed,
            **code_version(),
            "packages": {name: importlib.metadata.version(name) for name in REPORTED_PACKAGES},
            "hardware": hardware(),
            "seconds": round(time.time() - self.started, 1),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_PER_GIB, 2),
            "inputs": self._inputs,
            "outputs": outputs,
            "scores": self._scores,
            "findings": self._findings,
        }
        write_json(self.folder / "manifests" / f"{self.params.notebook}.json", manifest)
        shutil.rmtree(self.resume)
        return manifest


def score_in_words(score: Mapping) -> str:
    """A score's value, unit and interval, or why it has none."""
    if score["value"] is None:
        return f"not measured: {score['reason']}"
    interval = "" if score["ci_low"] is None else f" ({score['ci_low']:.4g} to {score['ci_high']:.4g})"
    value = score["value"]
    return f"{value:,.0f} {score['unit']}{interval}" if abs(value) >= 1000 else f"{value:.4g} {score['unit']}{interval}"


def duration_in_words(seconds: float) -> str:
    """Such as "4 s", "1 min 01 s" or "2 h 01 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
