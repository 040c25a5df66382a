"""Which new crystals the score model makes in systems without known ternaries, and how they lie to the hull (Table 3).

Section 5.4 of Sultanov et al., 10.1021/acs.jcim.3c00969. Energies are of one potential, in eV/atom: those of the new
crystals, of the known ones and of decorated prototypes that stand in for binaries which the data lack. A hull lacks
what neither holds, and what it has no competitor for lies low.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from ase import units
from pymatgen.core import Composition, Element, Structure

from lib.core.published import SCORE_FIGURE_8, SCORE_TABLE_3
from lib.core.streams import numpy_stream
from lib.crystals.elements import atoms_of
from lib.crystals.table import CrystalTable
from lib.crystals.validity import LOOSE_SYMPREC, obtained_space_group, reason_unusable
from lib.energies.hull import UNKNOWN, Hull, Resolution, formation_energy, lowest_elements, made_of
from lib.energies.potentials import energy_kind_of
from lib.energies.relaxation import Relaxation
from lib.metrics.duplicates import first_of_kind, known_twins
from lib.metrics.stability import scale_of
from lib.retrieval.site_statistics import generic_unit, keeps_its_group
from lib.retrieval.templates import ElementRanking
from lib.studies.score import SiteTemplates
from lib.studies.score_finds import Settings, lowest, valid_energies
from lib.studies.table_3 import FIND
from lib.symmetry.wyckoff import AsymmetricUnit, Site, positions

RATIOS = ((1, 1), (1, 2), (1, 3), (2, 3), (3, 5), (1, 5), (1, 4))  # of binaries, as MP-20 has them most often
MOST_TEMPLATE_ATOMS = 14  # in the cell of a decorated prototype
KEPT = 2  # decorated prototypes of a composition that are relaxed, of those that are looked at
TRIES = 1000  # to draw positions that hold the sites
ENERGIES = ["formation_energy", "distance", "distance_low", "distance_high"]
COLUMNS = ["system", "row", "samples", "valid", "formula", *ENERGIES, "says", "space_group"]
MEV_PER_KJ_PER_MOL = 1000 * units.kJ / units.mol


def choices_of_sites(system: str) -> list[list[int]]:
    """Elements of the inequivalent sites of a system's new crystals: one or two of each, four at most (section 5.4)."""
    elements = [Element(symbol).Z for symbol in system.split("-")]
    return [elements, *([*elements, one] for one in elements)]


def on_general_positions(group: int, sites: Sequence[int]) -> AsymmetricUnit:
    """Sites of which nothing but their elements is told."""
    place = len(positions(group)) - 1
    return AsymmetricUnit(np.eye(3), group, tuple(Site(z, place, np.zeros(3)) for z in sites))


def drawn_positions(
    training: CrystalTable, group: int, sites: Sequence[int], n: int, most_atoms: int, seed: int
) -> list[AsymmetricUnit]:
    """At most n times positions for sites, each drawn as often as sites of the group's training crystals take it.

    Draws that put two sites on one point, have too many atoms or give another group are repeated.
    """
    known, rng = positions(group), numpy_stream(seed, "positions", group, str(list(sites)))
    taken = [s.position for row in np.flatnonzero(training.space_group == group) for s in training.unit_of(row).sites]
    weights = np.bincount(taken, minlength=len(known)) + 1e-9  # where there are none, all alike
    elements, counts = np.unique(sites, return_counts=True)
    units: list[AsymmetricUnit] = []
    for _ in range(TRIES):
        if len(units) == n:
            break
        drawn = rng.choice(len(known), len(sites), p=weights / weights.sum())
        points = [p for p in drawn.tolist() if known[p].n_free == 0]
        if len(set(points)) < len(points) or sum(known[p].multiplicity for p in drawn) > most_atoms:
            continue
        unit = generic_unit(group, elements, [several.tolist() for several in np.split(drawn, counts.cumsum()[:-1])])
        if keeps_its_group(unit):
            units.append(unit)
    return units


def decorated(ranking: ElementRanking, compositions: Iterable[str], n: int) -> dict[str, list[Structure]]:
    """Formula -> at most n training crystals of its proportions, those of the most alike elements first, decorated."""
    asked = [(Composition(f).reduced_composition, f) for f in compositions]
    cells_of = [(f, c * k) for c, f in asked for k in range(1, int(MOST_TEMPLATE_ATOMS // c.num_atoms) + 1)]
    species = [atoms_of(whole) for _, whole in cells_of]
    bare = CrystalTable.of_cells(
        [(np.eye(3), np.zeros((len(one), 3)), one) for one in species],
        id=[str(i) for i in range(len(species))],
        formation_energy=np.full(len(species), np.nan),
        space_group=np.ones(len(species), int),
        energy_kind="not told",
    )
    found: dict[str, list] = {f: [] for _, f in asked}
    for (formula, _), several in zip(cells_of, ranking.templates(bare, n, use_space_group=False), strict=True):
        found[formula] += several
    best = {f: sorted(several, key=lambda t: -t.score)[:n] for f, several in found.items()}
    return {f: [ranking.substituted(t) for t in several] for f, several in best.items()}


def lowest_decorated(
    ranking: ElementRanking, formulas: Sequence[str], n: int, settings: Settings
) -> list[tuple[str, str, Relaxation]]:
    """Of each formula the KEPT of n :func:`decorated` crystals that are lowest in energy, relaxed: name, formula and
    outcome; those that failed are left out."""
    made = [(f, s) for f, several in decorated(ranking, formulas, n).items() for s in several]
    energies, _ = valid_energies([s for _, s in made], ranking.volumes, settings.potential, **settings.kept)
    chosen = np.flatnonzero(lowest(energies, [f for f, _ in made], KEPT)).tolist()
    results = settings.relax([made[i][1] for i in chosen])
    named = [(f"decorated {made[i][0]} {i}", made[i][0], r) for i, r in zip(chosen, results, strict=True)]
    return [one for one in named if not one[2].outcome.startswith("rejected")]


def competing_phases(
    system: str, tables: Sequence[CrystalTable], ranking: ElementRanking, n: int, ratios: int, settings: Settings
) -> pd.DataFrame:
    """What new crystals of a system compete with: crystals of the tables and decorated prototypes of its elements and
    binaries, relaxed: id, formula, energy (total, eV/atom).

    Args:
        n: prototypes of a composition that are looked at; ratios: how many of RATIOS.
    """
    symbols = system.split("-")
    pairs = [(a, b) for a in symbols for b in symbols if a < b]
    several = dict.fromkeys(ratio for p, q in RATIOS[:ratios] for ratio in ((p, q), (q, p)))
    formulas = [*symbols, *(f"{a}{p}{b}{q}" for a, b in pairs for p, q in several)]
    phases = lowest_decorated(ranking, formulas, n, settings)
    for table in tables:
        inside = table.take(made_of(table, symbols))
        results = settings.relax(list(inside.structures()))
        named = zip(inside.id.tolist(), inside.reduced_formula.tolist(), results, strict=True)
        phases += [one for one in named if not one[2].outcome.startswith("rejected")]
    lines = {name: (formula, result.energy) for name, formula, result in phases}
    return pd.DataFrame([(name, *line) for name, line in lines.items()], columns=["id", "formula", "energy"])


def with_energies(tables: Sequence[CrystalTable]) -> CrystalTable:
    """The crystals of those tables whose energies are of one kind with the first's, to measure a potential on."""
    alike = [replace(table, extra={}) for table in tables if table.energy_kind == tables[0].energy_kind]
    return CrystalTable.join(alike, about=tables[0].about)


def resolution_of(
    systems: Sequence[str], known: CrystalTable, settings: Settings, rng: np.random.Generator
) -> tuple[Resolution, str]:
    """How far off the potential's distances are in some systems together, and what that was measured on, in words.

    Of one system alone the data have too few compounds.
    """
    formulas = ["".join(system.split("-")) for system in systems]
    scale = scale_of(known, formulas, settings.potential, relax=False, rng=rng, **settings.kept)
    resolution = scale.resolution_in({symbol for system in systems for symbol in system.split("-")})
    return resolution, "nothing" if resolution is UNKNOWN else scale.measured_on


@dataclass(frozen=True)
class SystemHull:
    """The hull of a system in the energies of a potential, and what a distance from it is off by."""

    hull: Hull
    references: dict[str, float]  # symbol -> energy of the element, eV/atom
    resolution: Resolution

    @classmethod
    def of(cls, system: str, phases: pd.DataFrame, resolution: Resolution, potential: str) -> SystemHull:
        """From :func:`competing_phases`.

        Raises:
            BadInput: no crystal of one of the elements is among the phases.
        """
        species = [atoms_of(Composition(formula)) for formula in phases.formula]
        references = lowest_elements(species, phases.energy)
        energies = [formation_energy(e, z, references) for e, z in zip(phases.energy, species, strict=True)]
        found = phases.formula.tolist(), energies, phases.id.tolist()
        return cls(Hull(system.split("-"), *found, energy_kind_of(potential)), references, resolution)

    def place(self, structure: Structure, energy: float) -> dict[str, object]:
        """Formula, formation_energy, distance with distance_low and distance_high (eV/atom), and what is said of it."""
        formula = structure.composition.reduced_formula
        formed = formation_energy(energy, structure.atomic_numbers, self.references)
        distance = self.hull.energy_above_hull(formula, formed, self.hull.energy_kind)
        low, high = self.resolution.interval(distance)
        found = {"formula": formula, "formation_energy": formed, "distance": distance}
        return found | {"distance_low": low, "distance_high": high, "says": self.resolution.verdict(distance)}


def new_crystals(
    system: str,
    rows: Mapping[str, Sequence[Structure | None]],
    of_system: SystemHull,
    tables: Sequence[CrystalTable],
    volumes: np.ndarray,
    best: int,
    most_atoms: int,
    settings: Settings,
) -> tuple[pd.DataFrame, list[Structure]]:
    """Of each row the `best` samples that lie lowest above the hull, relaxed, and where they then lie.

    Returns:
        A line a relaxed crystal: system, row, samples, valid (of how many of the row), those of
        :meth:`SystemHull.place`, space_group (at 0.1 Å), known as; and the structures.
    """
    lines, structures = [], []
    for row, made in rows.items():
        small = [s if s is not None and len(s) <= most_atoms else None for s in made]
        energies, _ = valid_energies(small, volumes, settings.potential, **settings.kept)
        usable = np.flatnonzero(np.isfinite(energies)).tolist()
        heights = np.array([of_system.place(small[i], energies[i])["distance"] for i in usable])
        chosen = np.array(usable, int)[lowest(heights, [row] * len(usable), best)].tolist()
        about = {"system": system, "row": row, "samples": len(made), "valid": len(usable)}
        for result in settings.relax([small[i] for i in chosen]):
            failure = "" if result.outcome == "capped" else result.failure  # its distance is then an upper bound
            if not reason_unusable(failure, result.structure, volumes):
                group = obtained_space_group(result.structure, LOOSE_SYMPREC)
                lines.append(about | of_system.place(result.structure, result.energy) | {"space_group": group})
                structures.append(result.structure)
        if not any(line["row"] == row for line in lines):
            lines.append(about)
            structures.append(None)
    there = [structure for structure in structures if structure is not None]
    several = [known_twins(there, table, n_workers=settings.n_workers) for table in tables]
    twins = iter([next(filter(None, names), "") for names in zip(*several, strict=True)])
    found = (
        pd.DataFrame(lines, columns=COLUMNS).astype(dict.fromkeys(ENERGIES, float)).fillna({"formula": "", "says": ""})
    )
    found = found.assign(**{"known as": ["" if s is None else next(twins) for s in structures]})
    return found, structures


def told(system: str, training: CrystalTable, n: int, most_atoms: int, seed: int) -> dict[str, list[AsymmetricUnit]]:
    """What samples of a system's new crystals are asked on, n of each choice of sites, in the group of Table 3: at
    level "sites" their elements alone, at level "positions" positions drawn for them (:func:`drawn_positions`)."""
    choices, group = choices_of_sites(system), _groups()[system]
    general = [on_general_positions(group, sites) for sites in choices for _ in range(n)]
    drawn = [drawn_positions(training, group, sites, n, most_atoms, seed) for sites in choices]
    return {"sites": general, "positions": [unit for several in drawn for unit in several]}


def from_templates(ranking: ElementRanking, system: str, n: int) -> list[Structure]:
    """Training crystals of the group with as many inequivalent sites, at most n of each choice, with its elements."""
    of_sites, group = SiteTemplates(ranking), _groups()[system]
    found = [of_sites.templates(group, sites, n) for sites in choices_of_sites(system)]
    return [ranking.substituted(t) for several in found for t in several]


def _groups() -> dict[str, int]:
    return dict(zip(SCORE_TABLE_3.system, SCORE_TABLE_3.space_group.tolist(), strict=True))


def table_3(found: pd.DataFrame) -> pd.DataFrame:
    """The lowest crystal of each system and row of :func:`new_crystals` beside the paper's, meV/atom.

    The paper's numbers are in kJ/mol, which are taken as per mole of atoms.
    """
    lines = []
    for asked in SCORE_TABLE_3[SCORE_TABLE_3.system.isin(found.system)].itertuples():
        energies = {"formation": asked.formation, "distance": asked.distance}
        about = {"system": asked.system, "row": "published, DFT", "formula": asked.formula}
        lines.append(about | {k: v * MEV_PER_KJ_PER_MOL for k, v in energies.items()} | {"group": asked.space_group})
        for row, part in found[found.system == asked.system].groupby("row", sort=False):
            judged = part.dropna(subset="distance")
            line = {"system": asked.system, "row": row, "samples": part.samples.iloc[0], "valid": part.valid.iloc[0]}
            lines.append(line | {"relaxed": len(judged)})
            if len(judged):
                best = judged.loc[judged.distance.idxmin()]
                numbers = {"formation": best.formation_energy, "distance": best.distance}
                numbers |= {"distance_low": best.distance_low, "distance_high": best.distance_high}
                lines[-1] |= {name: 1000 * value for name, value in numbers.items()}
                lines[-1] |= {"formula": best.formula, "group": best.space_group, "says": best.says}
                lines[-1] |= {"known as": best["known as"]}
    energies = ["formation", "distance", "distance_low", "distance_high"]
    columns = ["system", "row", "formula", "group", *energies, "says", "known as", "samples", "valid", "relaxed"]
    table = pd.DataFrame(lines).reindex(columns=columns)
    whole = {name: table[name].astype(float).astype("Int64") for name in ("group", "samples", "valid", "relaxed")}
    return table.assign(**whole).fillna({"says": "", "known as": "", "formula": ""})


def lowest_of_model(found: pd.DataFrame, structures: Sequence[Structure | None]) -> dict[str, Structure]:
    """Title -> structure: of each system the new crystal of the score model that lies lowest (Figure 8)."""
    ours = found[found.row.str.endswith("score model")].dropna(subset="distance")
    best = ours.loc[ours.groupby("system", sort=False).distance.idxmin()]
    return {f"{one.formula}, {1000 * one.distance:+.0f}": structures[one.Index] for one in best.itertuples()}


def named(
    system: str, of_system: SystemHull, found: pd.DataFrame, ranking: ElementRanking, n: int, settings: Settings
) -> pd.DataFrame:
    """What the hull is at the composition that Table 3 names and at the one that the text on Figure 8 does, and how far
    above it the lowest decorated prototype and the lowest new crystal of that composition lie, meV/atom."""
    formulas = {"Table 3": SCORE_TABLE_3.set_index("system").formula[system]}
    formulas |= {"text on Figure 8": SCORE_FIGURE_8[system]} if system in SCORE_FIGURE_8 else {}
    lines = of_system.hull.at(list(formulas.values()))
    lines["hull_energy"] *= 1000
    lines.insert(0, "named in", list(formulas))
    lines.insert(0, "system", system)
    kept = lowest_decorated(ranking, list(formulas.values()), n, settings)
    places = [of_system.place(result.structure, result.energy) | {"asked": formula} for _, formula, result in kept]
    lowest_of = pd.DataFrame(places, columns=["asked", "distance"]).groupby("asked").distance.min()
    lines["decorated prototype"] = 1000 * lines.formula.map(lowest_of)
    reduced = [Composition(formula).reduced_formula for formula in lines.formula]
    ours = found.dropna(subset="distance").groupby("formula").distance.min()
    lines["lowest new crystal"] = [1000 * ours.get(formula, np.nan) for formula in reduced]
    return lines


def different_below(found: pd.DataFrame, structures: Sequence[Structure | None]) -> int:
    """How many different crystals are resolved to lie below the hull, of those that the data do not hold."""
    rows = np.flatnonzero((found.says == FIND) & (found["known as"] == ""))
    first = first_of_kind(found.formula.iloc[rows], [structures[i] for i in rows])
    return int((first == np.arange(len(rows))).sum())


def in_words(found: pd.DataFrame, n_phases: Mapping[str, int]) -> list[str]:
    """What :func:`table_3` shows, a sentence a system.

    Args:
        n_phases: competing phases by system.
    """
    sentences = []
    for system, part in table_3(found).groupby("system", sort=False):
        here = part[part.row != "published, DFT"].dropna(subset="distance")
        said = [f"{one.row} {one.formula} {_distance(one)}, {one.says}" for one in here.itertuples()]
        published = part.iloc[0]
        sentences.append(
            f"{system}, lowest new crystals beside a hull of {n_phases[system]} phases, meV/atom: "
            f"{'; '.join(said) or 'none'}. Published: {published.formula} {published.distance:+.0f} by DFT."
        )
    return sentences


def _distance(line) -> str:
    if np.isnan(line.distance_low):
        return f"{line.distance:+.0f} (error not known)"
    return f"{line.distance:+.0f} ({line.distance_low:+.0f} to {line.distance_high:+.0f})"
