"""AFLOW over AFLUX: a plan, its pages, and what they hold as one table.

:mod:`.queries` says what is asked, :mod:`.aflux` asks, :mod:`.pages` keeps the answers, :mod:`.entries` and
:mod:`.rows` read them and :mod:`.shards` makes tables of them. All of it goes on where it stopped.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from lib.core.errors import BadInput
from lib.core.files import ROOT, replacing
from lib.core.parameters import Params
from lib.core.run import Run
from lib.core.web import client
from lib.crystals.table import CrystalTable
from lib.datasets.sources.aflow.aflux import Aflux, Answers
from lib.datasets.sources.aflow.entries import Scale
from lib.datasets.sources.aflow.queries import queries
from lib.datasets.sources.aflow.shards import joined, read_parts, standard_parts
from lib.symmetry.cells import SETTING

TRIALS = ROOT / "lib" / "data"  # where benchmarks leave the tables that notebook 01 shows
TABLE_BYTES = 1000  # of an entry, of about ten atoms, in all the tables that the ingest and its notebook write
SECONDS_TO_STANDARDISE = 5e-4  # of an entry of about ten atoms, on one core


@dataclass(frozen=True)
class Plan:
    """What is to be fetched, as far as the pages tell that are there already."""

    entries: int
    pages: int
    kept: int  # pages that are there
    megabytes: float  # still to come, as sent
    hours: float  # to fetch them
    hours_to_standardise: float
    disk_gb: float  # still to be written, pages and tables
    free_gb: float

    @classmethod
    def of(cls, surveyed: Sequence[Answers], params: Params, folder: Path) -> "Plan":
        """From the pages of a survey."""
        heads = [head for a in surveyed for head in a.heads.values()]
        stored = sum(path.stat().st_size for a in surveyed for path in a.paths.values())
        size, kept = params.aflow_page_size, sum(head.entries for head in heads)
        entries = sum(max([a.n_entries, *a.told]) if a.told else a.n_entries + size * _missing(a) for a in surveyed)
        if params.aflow_max_pages is not None:
            entries = kept
        missing, per_entry = sum(map(_missing, surveyed)), 1 / max(kept, 1)
        full = [head.seconds for head in heads if head.entries == size] or [head.seconds for head in heads]
        seconds = max(sum(full) / len(full) / params.aflow_connections, params.aflow_pause)
        disk = (entries - kept) * stored * per_entry + entries * TABLE_BYTES
        folder.mkdir(parents=True, exist_ok=True)
        return cls(
            entries=entries,
            pages=sum(a.n_pages for a in surveyed),
            kept=sum(a.n_pages for a in surveyed) - missing,
            megabytes=(entries - kept) * sum(head.size for head in heads) * per_entry / 1e6,
            hours=missing * seconds / 3600,
            hours_to_standardise=entries * SECONDS_TO_STANDARDISE / params.n_workers / 3600,
            disk_gb=disk / 1e9,
            free_gb=shutil.disk_usage(folder).free / 1e9,
        )

    def frame(self) -> pd.DataFrame:
        """One row a quantity."""
        words = {
            "entries": f"{self.entries:,}",
            "pages": f"{self.pages:,}",
            "pages that are there": f"{self.kept:,}",
            "to be fetched": f"{self.megabytes:,.1f} MB",
            "time to fetch": f"{self.hours:.2f} h",
            "time to standardise": f"{self.hours_to_standardise:.2f} h",
            "disk needed": f"{self.disk_gb:.2f} GB",
            "disk free": f"{self.free_gb:.2f} GB",
        }
        return pd.DataFrame({"quantity": words.keys(), "value": words.values()})

    def check(self, folder: Path) -> None:
        """Raises BadInput if the disk is too small."""
        if self.disk_gb > self.free_gb:
            raise BadInput(
                f"the pages and tables of {self.entries:,} AFLOW entries take {self.disk_gb:.2f} GB in {folder}, where "
                f"{self.free_gb:.2f} GB are free; free some space or narrow 'aflow_species' or 'aflow_catalogs'"
            )


def _missing(answers: Answers) -> int:
    """Pages that have not come."""
    return sum(number not in answers.heads for number in range(1, answers.n_pages + 1))


def counts(surveyed: Sequence[Answers]) -> pd.DataFrame:
    """One row a query: how many entries AFLOW said it has, on its first page and its last, and how many came."""
    rows = []
    for a in surveyed:
        first, last = (a.told[0], a.told[-1]) if a.told else (None, None)
        changed = len({*a.told}) > 1
        remark = f"between {min(a.told)} and {max(a.told)} while it was read" if changed else ""
        rows.append((a.query.name, a.n_pages, first, last, a.n_entries, remark))
    return pd.DataFrame(rows, columns=["query", "pages", "told first", "told last", "received", "count changed"])


def trials(what: str) -> pd.DataFrame:
    """The table of `python -m benchmarks.aflow_trials`, "faults" or "kills", or of the benchmark "scale", as it was
    measured last."""
    return pd.read_csv(TRIALS / f"aflow_{what}.csv")


def load(params: Params, run: Run) -> CrystalTable:
    """Every wanted entry, in standard cells.

    Beside it, `data/rejects.parquet` holds each entry that cannot be used with the reason and as it came, and
    `tables/aflow_plan.csv`, `aflow_queries.csv` and `aflow_set_aside.csv` what was planned, counted and set aside.
    Raises BadInput if AFLOW refuses the question or stays out of order, a page on disk is damaged, or the disk is too
    small.
    """
    folder, scale = run.folder / "data", Scale(params.aflow_dft_type, params.aflow_ldau_type)
    with client(params.aflow_contact) as http:
        aflux = Aflux(params, folder / "aflow_pages", http)
        surveyed = aflux.survey(queries(params))
        plan = Plan.of(surveyed, params, folder)
        print(run.table(plan.frame(), "aflow_plan", "What is asked of AFLOW").to_string(index=False, header=False))
        plan.check(folder)
        aflux.fetch(surveyed)
    run.table(counts(surveyed), "aflow_queries", "AFLOW queries, and how many entries it said they have")
    pages = [run.input(path) for a in surveyed for path in a.paths.values()]
    n_workers = params.n_workers
    parts = read_parts(surveyed, folder, scale=scale, size=params.aflow_shard_size, n_workers=n_workers)
    table, rejects = joined(parts, standard_parts(parts, folder, n_workers=n_workers), params.aflow_catalogs)
    with replacing(run.path("data/rejects.parquet", "AFLOW entries that are not used, with the reason")) as temporary:
        pq.write_table(rejects, temporary, compression="zstd")
    frame = rejects.drop(["raw"]).to_pandas()
    run.table(frame, "aflow_set_aside", "AFLOW entries that cannot be used, and why")
    about = {
        "source": f"AFLOW ({params.aflow_url})",
        "setting": SETTING,
        "space_groups": "AFLOW's spacegroup_relax",
        "energy": f"enthalpy_formation_atom, {scale.energy_kind}, correction: {scale.correction}",
        "queries": len(surveyed),
        "pages": len(pages),
        "complete": params.aflow_max_pages is None,
        "set_aside": dict(Counter(frame.reason)),
    }
    return replace(table, about=about)
