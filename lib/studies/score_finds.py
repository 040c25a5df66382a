"""Whether the score model finds known crystals again that it has not learnt from (Table 2).

Section 5.3 of Sultanov et al., 10.1021/acs.jcim.3c00969. Energies are of one potential, in eV/atom. Samples
of several targets lie in one list, as many for each, those of one target after those of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pymatgen.core import Element, Structure

from lib.core.errors import BadInput
from lib.core.published import SCORE_KNOWN, SCORE_TABLE_2
from lib.core.run import Run
from lib.core.stats import cells, share
from lib.crystals.table import CrystalTable
from lib.crystals.validity import reason_invalid, reason_unusable
from lib.datasets.sources import mp20
from lib.datasets.sources.files import read_csv
from lib.energies.hull import made_of
from lib.energies.relaxation import Relaxation, relax_many, single_points
from lib.metrics.matching import VERDICTS, match_many, match_rows
from lib.metrics.stability import FREELY
from lib.retrieval.candidates import candidates
from lib.retrieval.templates import ElementRanking
from lib.studies.score import FAMILIES, SiteTemplates, without_energies
from lib.symmetry.wyckoff import AsymmetricUnit

RELAXED = ["relaxed_default", "relaxed_csp"]  # which samples match their targets once they are relaxed
PUBLISHED = "published: relaxed by DFT"


# ------------------------------------------------------------------------------------------------- which crystals


def read_observed(path: Path, run: Run) -> CrystalTable:
    """Crystals of the Materials Project from a csv or parquet file as :mod:`lib.datasets.sources.mp20` reads them, with
    columns above_hull (eV/atom) and theoretical.

    Where the file does not say what is theoretical, as of MPTS-52, all were observed.

    Raises:
        BadInput: the file is missing or damaged, or lacks e_above_hull.
    """
    path = mp20.found_file(path)
    if not path.is_file():
        raise BadInput(f"{path} does not exist; put the file there, or give 'observed: null', which leaves Table 2 out")
    csv = path.suffix == ".csv"
    known = pd.read_csv(path, nrows=0).columns if csv else pq.read_schema(path).names
    if "e_above_hull" not in known:
        raise BadInput(f"{path} has no column e_above_hull, so that nothing is known to lie above the hull; add it")
    table = mp20.read(path, run)
    columns = ["material_id", "e_above_hull", *{"theoretical"} & set(known)]
    facts = read_csv(path, columns) if csv else pq.read_table(path, columns=columns).to_pandas()
    facts = facts.set_index("material_id").reindex(columns=["e_above_hull", "theoretical"]).loc[table.id]
    theoretical = facts.theoretical.astype(str).str.lower() == "true"
    return table.with_notes(
        extra={"above_hull": facts.e_above_hull.to_numpy(float), "theoretical": theoretical.to_numpy(bool)}
    )


def nothing_told(table: CrystalTable) -> CrystalTable:
    """The same crystals as targets: their energies are told to no one."""
    return replace(without_energies(table), energy_kind="not told", extra={})


def fixed_list(
    observed: CrystalTable,
    learnt: Collection[str],
    n: int,
    *,
    above_hull: float,
    most_atoms: int,
    min_group: int,
    seed: int,
) -> CrystalTable:
    """At most n observed crystals above the hull whose formulas train nothing, as many of each crystal family.

    Which they are follows from the seed and each crystal's id alone: other crystals, or another order, move none.

    Args:
        observed: with the columns of :func:`read_observed`.
        learnt: reduced formulas.
        above_hull: eV/atom that each lies above the hull, at least.
        most_atoms: in the primitive cell.
        min_group: the least space group.
    """
    fits = (observed.extra["above_hull"] > above_hull) & ~observed.extra["theoretical"]
    fits &= (observed.n_sites <= most_atoms) & (observed.space_group >= min_group)
    fits &= ~np.isin(observed.reduced_formula, list(learnt))
    rows = np.flatnonzero(fits)
    lots = [hashlib.sha256(f"{seed} {observed.id[row]}".encode()).hexdigest() for row in rows]
    rows = rows[np.argsort(lots, kind="stable")]
    rows = rows[np.sort(np.unique(observed.reduced_formula[rows], return_index=True)[1])]  # one of each formula
    family, taken = np.searchsorted(list(FAMILIES.values()), observed.space_group[rows]), []
    waiting = {of: iter(rows[family == of].tolist()) for of in np.unique(family).tolist()}
    while waiting and len(taken) < n:  # the families take turns
        for of in list(waiting):
            with_positions = (row for row in waiting[of] if observed.unit_of(row).symmetry == observed.space_group[row])
            row = next(with_positions, None)
            if row is None:
                del waiting[of]
            else:
                taken.append(row)
    return observed.take(np.sort(np.array(taken[:n], dtype=int)))


def at_hand(tables: Sequence[CrystalTable], learnt: Collection[str]) -> tuple[CrystalTable, list[int]]:
    """Crystals of the paper's Table 2 that some tables hold and whose formulas train nothing; and the line of each."""
    found, lines = [], []
    for line, asked in enumerate(SCORE_TABLE_2.itertuples()):
        elements = asked.elements.split("-")
        for table in tables:
            fits = made_of(table, elements) & (table.space_group == asked.space_group)
            for symbol in elements:
                fits &= table.has_element(Element(symbol).Z)
            fits &= ~np.isin(table.reduced_formula, list(learnt))
            if fits.any():
                found.append(nothing_told(table.take(np.flatnonzero(fits)[:1])))
                lines.append(line)
                break
    none = nothing_told(tables[0].take([]))
    return CrystalTable.join([none, *found], about={}), lines


def to_find(
    crystals: CrystalTable, observed: CrystalTable | None, learnt: Collection[str], n: int, **fits
) -> tuple[CrystalTable, list[int]]:
    """Crystals of Table 2 that are at hand (:func:`at_hand`), then those of :func:`fixed_list`, and the lines of the
    former.

    Args:
        crystals: the run's own; the formulas of the list are in none of its sets.
        learnt: reduced formulas that have trained a model.
        n: of the list, if crystals were `observed`; fits are its further arguments.
    """
    tables = [crystals] if observed is None else [crystals, observed]
    eight, lines = at_hand(tables, learnt)
    if observed is None:
        return eight, lines
    others = {*learnt, *crystals.reduced_formula.tolist(), *eight.reduced_formula.tolist()}
    listed = fixed_list(observed, others, n, **fits)
    return CrystalTable.join([eight, nothing_told(listed)], about={}), lines


# ---------------------------------------------------------------------------------------------- samples of targets


def told_positions(
    level: str, targets: CrystalTable, ranking: ElementRanking, n: int, choices: int
) -> list[AsymmetricUnit]:
    """Sites that each of n samples of each target is asked on, by what the level is told.

    At "composition" they are those of up to `choices` different templates of the group, each for as many samples.
    """
    if level != "composition":
        return [targets.unit_of(i) for i in range(len(targets)) for _ in range(n)]
    several = candidates(nothing_told(targets), ranking, choices)
    return [of_target[i * len(of_target) // n].unit for of_target in several for i in range(n)]


def substituted(level: str, targets: CrystalTable, ranking: ElementRanking, n: int) -> list[Structure | None]:
    """The n training crystals of each target's group with the most alike elements, with the target's: of as many atoms
    of each element, at level "sites" of as many inequivalent sites; None for those that there are not."""
    if level == "sites":
        of_sites = SiteTemplates(ranking)
        units = [targets.unit_of(i) for i in range(len(targets))]
        found = [of_sites.templates(unit.symmetry, [site.species for site in unit.sites], n) for unit in units]
    else:
        found = ranking.templates(nothing_told(targets), n, use_space_group=True)
    made = [[ranking.substituted(t) for t in several] for several in found]
    return [one for several in made for one in [*several, *[None] * (n - len(several))]]


def valid_energies(
    structures: Sequence[Structure | None], volumes: np.ndarray, potential: str, **how
) -> tuple[np.ndarray, list[str]]:
    """Energies as generated, eV/atom, nan for what is no crystal; and why it is none.

    Args:
        volumes: (119,) Å^3 that an atom of each element takes.
        how: n_workers and finished of :func:`lib.energies.relaxation.single_points`.
    """
    reasons = [reason_invalid(structure, volumes) for structure in structures]
    given = [None if reason else structure for structure, reason in zip(structures, reasons, strict=True)]
    return single_points(given, potential, **how), reasons


def lowest(energies: np.ndarray, groups: Sequence[object], n: int) -> np.ndarray:
    """(m,) which are among the n of lowest energy of their group; nan is none."""
    frame = pd.DataFrame({"energy": energies, "group": list(groups)})
    place = frame.groupby("group", sort=False).energy.rank(method="first")
    return (place <= n).to_numpy()


@dataclass(frozen=True)
class Settings:
    """How samples are relaxed and compared; what an interruption leaves is taken up from the folder `resume`."""

    potential: str
    max_steps: int
    n_workers: int
    timeout_seconds: float
    resume: Path

    @property
    def kept(self) -> dict[str, object]:
        """Of :func:`lib.energies.relaxation.relax_many` and its like."""
        return {"n_workers": self.n_workers, "finished": self.resume / "energies"}

    @property
    def matching(self) -> dict[str, object]:
        """Of :func:`lib.metrics.matching.match_many`."""
        how = {"n_workers": self.n_workers, "timeout_seconds": self.timeout_seconds}
        return how | {"resume": self.resume / "verdicts.jsonl"}

    def relax(self, structures: Sequence[Structure]) -> list[Relaxation]:
        """Freely, as the phases of a hull."""
        return relax_many(structures, self.potential, **self.kept, **FREELY | {"max_steps": self.max_steps})


def recover(
    targets: CrystalTable,
    rows: Mapping[str, Sequence[Structure | None]],
    volumes: np.ndarray,
    best: int,
    settings: Settings,
) -> tuple[pd.DataFrame, list[Structure | None]]:
    """Samples of each row beside their targets, as they are and, of the `best` lowest in energy, relaxed.

    Samples of another composition than the target's are never among the best: that one is asked is known.

    Returns:
        A line a sample: the columns of :func:`lib.metrics.matching.match_rows`, energy (eV/atom), best, and
        relaxed_default and relaxed_csp; and of each its relaxed structure, None where there is none.
    """
    if not rows:
        return pd.DataFrame(columns=["row", "target", "formula", *VERDICTS, "energy", "best", *RELAXED]), []
    n = len(next(iter(rows.values()))) // len(targets)
    asked = targets.take(np.repeat(np.arange(len(targets)), n))
    tries = match_rows(asked, rows, **settings.matching)
    made = [structure for structures in rows.values() for structure in structures]
    wanted = np.tile(asked.reduced_formula, len(rows))
    right = [s and s.composition.reduced_formula == f for s, f in zip(made, wanted, strict=True)]
    given = [structure if fits else None for structure, fits in zip(made, right, strict=True)]
    energies, _ = valid_energies(given, volumes, settings.potential, **settings.kept)
    chosen = lowest(energies, list(zip(tries.row, tries.target, strict=True)), best)
    relaxed: list[Structure | None] = [None] * len(made)
    places = np.flatnonzero(chosen).tolist()
    for place, result in zip(places, settings.relax([made[i] for i in places]), strict=True):
        unusable = reason_unusable("" if result.outcome == "capped" else result.failure, result.structure, volumes)
        relaxed[place] = None if unusable else result.structure
    known = list(targets.structures())
    again = [known[place // n % len(known)] for place in places]
    after = match_many(again, [relaxed[i] for i in places], **settings.matching)
    tries = tries.assign(energy=energies, best=chosen)
    for name, verdict in zip(RELAXED, ("match_default", "match_csp"), strict=True):
        tries[name] = np.isin(np.arange(len(tries)), np.array(places)[after[verdict].to_numpy(bool)])
    return tries, relaxed


def recovered(tries: pd.DataFrame) -> pd.DataFrame:
    """Of each row of :func:`recover` the share of targets that are found by any sample as generated (any), by any of
    the best as generated (best) and by any of these relaxed (relaxed), at default and at CSP tolerances; and what the
    paper publishes."""
    hits = pd.DataFrame({"row": tries.row, "target": tries.target, "formula": tries.formula})
    for name in ("default", "csp"):
        hits[f"any_{name}"] = tries[f"match_{name}"].astype(bool)
        hits[f"best_{name}"] = hits[f"any_{name}"] & tries.best
        hits[f"relaxed_{name}"] = tries[f"relaxed_{name}"].astype(bool)
    of_target = hits.groupby(["row", "target", "formula"], sort=False).any().reset_index()
    tried = np.arange(SCORE_KNOWN[1]) < SCORE_KNOWN[0]
    lines = [{"row": PUBLISHED, "n": len(tried)} | cells({"published": share(tried, np.arange(len(tried)))})]
    for row, part in of_target.groupby("row", sort=False):
        rates = {name: share(part[name], part.formula) for name in part.columns[3:]}
        lines.append({"row": row, "n": len(part)} | cells(rates))
    return pd.DataFrame([*lines[1:], lines[0]])


def lengths(structure: Structure) -> str:
    """Different lengths of a cell's vectors, Å, in words."""
    return ", ".join(dict.fromkeys(f"{length:.2f}" for length in sorted(structure.lattice.abc)))


def table_2(
    targets: CrystalTable, lines: Sequence[int], tries: pd.DataFrame, relaxed: Sequence[Structure | None]
) -> pd.DataFrame:
    """The eight rows of the paper's Table 2, lengths in Å, and of each crystal at hand what each row of `tries` made.

    Of the best samples the one is shown that matches relaxed, or else the lowest in energy.
    """
    table = SCORE_TABLE_2.copy()
    for name in ("generated", "known"):
        table[name] = [", ".join(f"{length:g}" for length in sorted(several)) for several in table[name]]
    table = table.rename(columns={"generated": "published: generated", "known": "published: known"})
    table["here"] = "no crystal of this group whose formula trains nothing"
    tries = tries.reset_index(drop=True)
    for i, line in enumerate(lines):
        table.loc[line, "here"] = f"{targets.formula[i]} ({targets.id[i]}): {lengths(targets.structure(i))}"
        for row, part in tries[tries.target == targets.id[i]].groupby("row", sort=False):
            usable = part[[relaxed[place] is not None for place in part.index]]
            order = usable.sort_values([*RELAXED, "energy"], ascending=[False, False, True])
            found = "default" if part.relaxed_default.any() else "csp" if part.relaxed_csp.any() else "not found"
            made = lengths(relaxed[order.index[0]]) if len(order) else "none to relax"
            table.loc[line, row] = f"{made} ({found})"
    return table.fillna("")


def pictures(
    targets: CrystalTable, tries: pd.DataFrame, relaxed: Sequence[Structure | None], row: str, n: int
) -> dict[str, Structure]:
    """Title -> structure: of the first n targets that a row finds relaxed, at default tolerances, the known crystal
    and beside it the sample."""
    tries = tries.reset_index(drop=True)
    found = tries[(tries.row == row) & tries.relaxed_default].sort_values("energy").drop_duplicates("target")
    shown: dict[str, Structure] = {}
    for i, name in enumerate(targets.id.tolist()):
        for place in found.index[found.target == name][: n - len(shown) // 2]:
            shown[f"{targets.formula[i]}, known"] = targets.structure(i)
            shown[f"{targets.formula[i]}, found"] = relaxed[place]
    return shown


def in_words(rates: pd.DataFrame, potential: str, best: int) -> str | None:
    """What :func:`recovered` found, in a sentence; None where nothing was tried."""
    tried = rates[rates.row != PUBLISHED]
    if tried.empty:
        return None
    said = [f"{one.row} {_count(one.relaxed_default, one)}" for one in tried.itertuples()]
    found, of = SCORE_KNOWN
    return (
        f"Known crystals above the hull found again by one of the {best} samples of lowest energy, relaxed with "
        f"{potential}, default tolerances: {'; '.join(said)}. Published, by DFT: {found} of {of}."
    )


def _count(rate: float, line) -> str:
    ends = 100 * line.relaxed_default_low, 100 * line.relaxed_default_high
    return f"{round(rate * line.n)} of {line.n} ({ends[0]:.0f} to {ends[1]:.0f} %)"
