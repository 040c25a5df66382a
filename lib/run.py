"""The run context: validated parameters, seed, device, output folder, provenance manifest, progress.

A notebook starts with its `parameters` cell, hands the values to :meth:`Run.start` in the next cell, asks the run for
every path it reads (:meth:`Run.upstream`) or writes (:meth:`Run.path`, :meth:`Run.table`, :meth:`Run.figure`), and
ends with :meth:`Run.finish`, which writes `outputs/<run>/manifests/<notebook>.json`.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from tqdm import tqdm

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
_RSS_PER_GIB = 2**30 if sys.platform == "darwin" else 2**20
REPORTED_PACKAGES = ["torch", "numpy", "pymatgen-core", "spglib", "ase", "chgnet", "mendeleev", "papermill", "pydantic"]


class BadInput(ValueError):
    """Something the user gave cannot be used; the message is one sentence that names it and the remedy."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the sentence, not forty lines of frames."""
        return [f"BadInput: {self}"]


def progress(items: Iterable | None = None, **options):
    """A progress bar with rate and time left; shown only for what takes longer than a second."""
    return tqdm(items, delay=1, mininterval=1, **options)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a file's folder; what the system refuses while the block writes the file is said in one sentence.

    Raises:
        BadInput: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"cannot write {path}: {reason}; free some space or choose another folder") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    Raises:
        BadInput: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with writing(path):
            yield temporary
            temporary.chmod(0o666 & ~_UMASK)  # safetensors writes its files readable by their owner only
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: object) -> Path:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")
    return Path(path)


_UMASK = os.umask(0)  # the only way to read it is to set it
os.umask(_UMASK)

PRELOADED = ["pymatgen.core", "pyarrow.parquet", "scipy.optimize"]  # none of them starts threads
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def worker_pool(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each: threads of several workers that wait for one another slow them down fiftyfold.

    The libraries read the number of threads when they are loaded, so workers must find it in their environment; MKL
    and OpenBLAS heed their own variables, which Snakemake sets, before OpenMP's. Workers are forked from a small
    process that has loaded what nearly all of them use and stays for the next pool: the second is there at once. They
    do not run the calling script, which need not guard its lines by the name of its module: tasks are a module's own.
    """
    script = vars(sys.modules["__main__"])
    file = script.pop("__file__", None) if script.get("__spec__") is None else None
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ |= dict.fromkeys(THREAD_VARIABLES, "1")
    try:
        with ProcessPoolExecutor(n_workers, mp_context=context, initializer=_watch_parent) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        if file is not None:
            script["__file__"] = file
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _watch_parent() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, holding its memory."""
    parent_process().join()
    os._exit(1)


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def code_version() -> dict[str, object]:
    """Git commit and whether the tree differs from it ("unknown" outside a checkout)."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": None}


@functools.cache
def hardware() -> dict[str, object]:
    """Processor, cores, memory and GPU of this machine."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def machine() -> str:
    """This machine in words, for `scores.json`."""
    facts = hardware()
    return f"{facts['cpu']}, {facts['cores']} cores" + (f", {facts['gpu']}" if facts["gpu"] else "")


def torch_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda".

    Raises:
        BadInput: cuda was asked for and there is none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("parameter 'device' is 'cuda', but no GPU is visible to torch; use 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


RETIRED = {"n_bootstrap"}  # names that users' parameter files may still hold; they change nothing
LARGEST = 10**9  # of whole numbers in parameters: of steps, crystals, atoms


class Params(BaseModel):
    """The parameters every notebook has; :mod:`lib.params` adds those of each."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    notebook: ClassVar[str]
    command: ClassVar[str] = "make report PROFILE={run}"  # what makes these numbers again

    run: str = Field("quick", pattern=r"^\w[\w.-]*$")
    seed: int = Field(42, ge=0)
    n_workers: int = Field(2, ge=1, le=1024)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in values.items() if name not in RETIRED}

    @field_validator("run")
    @classmethod
    def _a_folder_of_its_own(cls, value: str) -> str:
        if value.lower() == "published":
            raise ValueError("outputs/published holds what `make publish` copies there; choose another name")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _means_what_it_says(cls, value: object, about: ValidationInfo) -> object:
        """What would be read as something else: true as 1, an empty path as the whole folder, an endless number."""
        kinds = str(cls.model_fields[about.field_name].annotation)
        for part in _parts(value):
            if isinstance(part, bool) and "bool" not in kinds and "Any" not in kinds:
                raise ValueError(f"{str(part).lower()} is no value here (YAML reads yes, no, on and off so)")
            if isinstance(part, str) and not part.strip():
                raise ValueError("an empty text is no value; write null for none")
            if isinstance(part, int) and abs(part) > LARGEST and about.field_name != "seed":
                raise ValueError(f"{part} is beyond all sense; give at most {LARGEST:,}")
        return value


def _parts(value: object) -> Iterator[object]:
    """What lists and mappings hold, however deep."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    else:
        yield value


P = TypeVar("P", bound=Params)


def validated(model: type[P], values: Mapping[str, object]) -> P:
    """The values as an instance of `model`.

    Raises:
        BadInput: a name is unknown or a value impossible; the message names the key, what it got and what it allows.
    """
    try:
        return model(**values)
    except ValidationError as failure:
        raise BadInput("; ".join(_in_words(model, error) for error in failure.errors())) from failure


def _in_words(model: type[Params], error: Mapping) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, model.model_fields, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"it knows {', '.join(sorted(model.model_fields))}"
        return f"parameter '{key}' is not known in {model.notebook}; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if not key:  # a check of several parameters together
        return f"{model.notebook}: {message}"
    return f"parameter '{key}' of {getattr(model, 'notebook', 'the run')} got {error['input']!r}: {message}"


def literal_assignments(cells: Iterable[str]) -> set[str]:
    """Names assigned in those cells that consist of nothing but assignments to names: the parameter cells.

    A cell that names the run is the notebook's own, which replaces any before it: in JupyterLab a misspelt one is
    corrected and run again. papermill's (it begins with "# Parameters") adds to it.
    """
    names: set[str] = set()
    for source in cells:
        try:
            statements = ast.parse(source).body
        except SyntaxError:
            continue
        if statements and all(isinstance(s, ast.Assign) and _is_literal(s.value) for s in statements):
            assigned = {target.id for s in statements for target in s.targets if isinstance(target, ast.Name)}
            anew = "run" in assigned and not source.lstrip().startswith("# Parameters")
            names = assigned if anew else names | assigned
    return names


def _is_literal(value: ast.expr) -> bool:
    infinite = isinstance(value, ast.Call) and ast.unparse(value.func) == "float"  # as papermill writes inf and nan
    return infinite or isinstance(value, (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.UnaryOp))


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
        rng: numpy generator seeded from `params.seed` and the notebook's name.
    """

    def __init__(self, params: P, root: Path = ROOT / "outputs") -> None:
        self.params = params
        self.folder = root / params.run
        self.started = time.time()
        self.seed = int.from_bytes(hashlib.sha256(f"{params.notebook}:{params.seed}".encode()).digest()[:4], "big")
        self.rng = np.random.default_rng(self.seed)
        self._inputs: dict[str, str] = {}
        self._outputs: dict[str, dict[str, str]] = {}
        self._scores: list[dict[str, object]] = []
        random.seed(self.seed)
        np.random.seed(self.seed)  # libraries that take no generator

    @classmethod
    def start(cls, model: type[P], namespace: Mapping[str, object]) -> Run[P]:
        """Validate the notebook's parameter cells and open the run; call it as `Run.start(XParams, globals())`.

        papermill only warns of names that a notebook does not know, so the names come from what the cells assigned.

        Raises:
            BadInput: an unknown or impossible parameter.
        """
        import pandas as pd

        pd.set_option("display.max_colwidth", 100)  # labels that differ at their end should look different
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
        """The torch device that `params.device` asks for.

        Raises:
            BadInput: cuda was asked for and there is none.
        """
        return torch_device(self.params.device)

    def upstream(self, name: str, producer: str) -> Path:
        """Path of a file that an earlier notebook of this run wrote, noted as an input.

        Raises:
            BadInput: it is missing: run that notebook first.
        """
        path = self.folder / name
        if not path.exists():
            raise BadInput(f"run {producer} first: {path} is missing")
        return self.input(path)

    def input(self, path: str | Path) -> Path:
        """Note a file as an input, with its checksum."""
        path = Path(path)
        self._inputs[self._relative(path)] = sha256_of(path)
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

    def figure(self, figure: Figure, name: str, caption: str):
        """Write `figures/<name>.png` and `.svg` and return the picture, for the cell to show.

        The svg carries :func:`drawn_numbers` as its description.
        """
        import matplotlib.pyplot as plt
        from IPython.display import Image

        metadata = {"Date": None, "Description": json.dumps(drawn_numbers(figure))}
        for suffix, options in ((".svg", {"metadata": metadata}), (".png", {"dpi": 150})):
            with replacing(self.path(f"figures/{name}{suffix}", caption)) as temporary:
                figure.savefig(temporary, format=suffix[1:], bbox_inches="tight", **options)
        plt.close(figure)
        width = int(figure.get_figwidth() * 96)
        return Image(filename=str(self.folder / f"figures/{name}.png"), alt=caption, width=width)

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
        value = None if value is None or not math.isfinite(value) else value
        if value is None and not reason:
            raise ValueError(f"score {id} has no value and no reason")
        self._scores.append(
            {
                "id": id,
                "value": None if value is None else float(value),
                "unit": unit,
                "n": n,
                "ci_low": None if ci[0] is None else float(ci[0]),
                "ci_high": None if ci[1] is None else float(ci[1]),
                "machine": machine(),
                "command": self.params.command.format(run=self.params.run),
                "commit": code_version()["commit"],
                **({"reason": reason} if reason else {}),
            }
        )

    def finish(self) -> dict[str, object]:
        """Write the notebook's manifest and return it."""
        outputs = {
            name: about | {"sha256": sha256_of(self.folder / name)}
            for name, about in self._outputs.items()
            if (self.folder / name).is_file()
        }
        manifest = {
            "notebook": self.params.notebook,
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
        }
        write_json(self.folder / "manifests" / f"{self.params.notebook}.json", manifest)
        shutil.rmtree(self.resume)
        return manifest

    def _relative(self, path: Path) -> str:
        for folder in (self.folder, ROOT):
            if path.is_relative_to(folder):
                return str(path.relative_to(folder))
        return str(path)


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
