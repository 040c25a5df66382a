"""A user's request answered with ranked crystal structures, by weights that ship with the project.

    python -m lib.generate TaW2B5 --space-group any --energy lowest --z 1..2 --n 16 --relax chgnet --out cifs/
    python -m lib.generate --requests requests.csv --out answers/
    python -m lib.generate --system Ta-W-B --max-atoms 8 --n 4 --out system/
    python -m lib.generate TaW2B5 --templates outputs/mp20_cpu --n 16 --relax chgnet --out cifs/
    python -m lib.generate --improve mine.cif --n 8 --relax chgnet --out better/

Requests are formulas, a csv file with the column `formula` and any of `space_group`, `energy`, `z`, `n` (an empty cell
is the option given here), or a chemical system: all formulas of exactly its elements in lowest terms, up to a number
of atoms. Each request gets n structures, shared out evenly over the numbers z of formula units in the primitive cell.

Sites come from statistics of the training set in the weights' file (:class:`lib.prior.SitePrior`): those of crystals
with the same counts, the more alike the elements there the more; the asked group, if any, is kept exactly. With
`--templates` the training crystals of a run lend their sites, coordinates and cell, chosen as its notebook 04 has
learnt to (:class:`lib.templates.LentSites`); the statistics serve where none of them can. `--energy
lowest` asks for the energy that a tenth of the training crystals of such a composition lie below
(:class:`lib.prior.EnergyPrior`); `any` leaves it open. `--improve` asks for other polymorphs of given crystals, of
which the model is shown each; `--energy` then is how far from the crystal's own energy they should lie, and what comes
back as the crystal itself is dropped. Structures that are no crystals
(:func:`lib.conditions.reason_invalid`) are dropped, of equal ones the best is kept. With a potential they are relaxed
within their symmetry and ranked by its energy per atom, else by the probability of their sites. Energies are the
potential's; formation energies are counted from the energies of the elements that :mod:`lib.references` keeps.

In --out: a CIF file each, structures.extxyz with all of them, summary.csv, and about.json; all say where they come
from. The same command continues an interrupted one.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure
from pymatgen.io.cif import CifWriter

from lib import matching, references
from lib.commands import command
from lib.conditions import MIN_DISTANCE_AFTER, first_of_kind, obtained_space_group, reason_invalid
from lib.crystals import ALPHABETICAL, SYMBOLS, SYMPREC, CrystalTable, parse_formula
from lib.exchange import read_structures
from lib.hull import formation_energy
from lib.prior import Candidate
from lib.relaxation import POTENTIALS, potential_provenance, relax_many
from lib.run import BadInput, code_version, progress, replacing, torch_device, write_json
from lib.sampling import TrainedModel, load_model
from lib.ship import Shipped, default_weights
from lib.sources.files import read_csv
from lib.spacegroups import checked_space_group
from lib.templates import LentSites
from lib.wyckoff import AsymmetricUnit

DEFAULT_WEIGHTS = {"generation": "generation_mp20", "modification": "modification_mp20"}
SAMPLING = {"steps": 50}
MAX_GUIDANCE = 20  # far beyond what makes crystals
FROM_TEMPLATES = {"template_start": 0.7}  # where crystals lend coordinates
UNSEEN = 0.01  # what sites count for that no training crystal took
AGAIN = 0.5  # what another structure on the same sites counts for, each time
FMAX, MAX_STEPS = 0.05, 300  # eV/Å and steps of relaxation
MAX_SYSTEM_ATOMS = 8
MAX_STRUCTURES, MAX_UNITS = 100_000, 1000  # of a request, and of formula units in a cell; more takes memory without end


# ---------------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        formula: one formula unit.
        space_groups: those that will do; None for any.
        energy: eV/atom, "lowest" or "any".
        z: numbers of formula units in the primitive cell.
        n: structures.
        polymorph: the crystal to improve on, in a primitive cell; `energy` is then the difference from its own.
    """

    formula: str
    space_groups: tuple[int, ...] | None
    energy: float | str
    z: tuple[int, ...]
    n: int
    polymorph: Structure | None = None

    @classmethod
    def parse(cls, formula: str, space_group: str = "any", energy: str = "any", z: str = "1", n: str = "16") -> Request:
        """From the words of a command line or a csv file.

        Raises:
            BadInput: one of them cannot be understood.
        """
        formula = re.sub(r"\s", "", formula)
        parse_formula(formula)
        return cls(formula, parse_space_groups(space_group), parse_energy(energy), parse_z(z), parse_n(n))

    @classmethod
    def improving(cls, crystal: Structure, space_group: str, energy: str, n: str) -> Request:
        """For other polymorphs of a crystal, with as many atoms as its primitive cell has.

        Raises:
            BadInput: a word cannot be understood, or the energy is "lowest": it counts from the crystal's own.
        """
        if energy == "lowest":
            raise BadInput("energy 'lowest' says nothing of a difference; give it in eV/atom, such as -0.05, or 'any'")
        primitive = crystal.get_primitive_structure()
        atoms = primitive.composition.element_composition.items()
        formula = "".join(f"{element}{int(count) if count > 1 else ''}" for element, count in atoms)
        return replace(cls.parse(formula, space_group, energy, "1", n), polymorph=primitive)

    @property
    def label(self) -> str:
        """The formula for file names: as given, or in lowest terms where it has brackets."""
        return self.formula if self.formula.isalnum() else parse_formula(self.formula).reduced_formula

    def species(self, z: int) -> np.ndarray:
        """(n_sites,) atomic numbers of z formula units in canonical order."""
        composition = parse_formula(self.formula)
        species = np.repeat([e.Z for e in composition], [int(n) * z for n in composition.values()])
        return species[np.argsort(ALPHABETICAL[species], kind="stable")]

    def __str__(self) -> str:
        groups = "any" if self.space_groups is None else ",".join(map(str, self.space_groups))
        z = f"{self.z[0]}..{self.z[-1]}" if len(self.z) > 1 else str(self.z[0])
        return f"{self.formula}, space group {groups}, energy {self.energy}, z {z}, n {self.n}"


def parse_space_groups(text: str) -> tuple[int, ...] | None:
    """Space groups from "any" or numbers such as "225,221"."""
    if text == "any":
        return None
    numbers = text.split(",")
    if not all(re.fullmatch(r"\s*\d+\s*", number) for number in numbers):
        raise BadInput(f"space group {text!r} is neither 'any' nor numbers from 1 to 230 such as '225' or '221,225'")
    return tuple(dict.fromkeys(checked_space_group(int(number)) for number in numbers))


def parse_energy(text: str) -> float | str:
    """An energy from "any", "lowest" or eV/atom."""
    if text in ("any", "lowest"):
        return text
    try:
        energy = float(text)
    except ValueError:
        energy = float("nan")
    if not np.isfinite(energy):
        raise BadInput(f"energy {text!r} is neither 'any' nor 'lowest' nor a number of eV/atom such as -0.5")
    return energy


def parse_z(text: str) -> tuple[int, ...]:
    """Numbers of formula units from "2" or "1..4"."""
    found = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", text.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise BadInput(f"z {text!r} is neither a positive whole number nor a range of them such as '1..4'")
    if last > MAX_UNITS:
        raise BadInput(f"z {text[:20]!r} asks for more than {MAX_UNITS} formula units in a cell; give fewer")
    return tuple(range(first, last + 1))


def parse_n(text: str) -> int:
    """A positive whole number of structures, at most MAX_STRUCTURES."""
    if not re.fullmatch(r"0*[1-9]\d*", text.strip()):
        raise BadInput(f"n {text!r} is no positive whole number of structures")
    digits = text.strip().lstrip("0")
    if len(digits) > len(str(MAX_STRUCTURES)) or int(digits) > MAX_STRUCTURES:
        raise BadInput(f"n {text[:20]!r} is more than {MAX_STRUCTURES:,} structures of one request; ask for fewer")
    return int(digits)


def read_requests(path: Path, **defaults: str) -> list[Request]:
    """The requests of a csv file; `defaults` stand in for columns that are missing and cells that are empty.

    Raises:
        BadInput: the file or one of its lines cannot be understood.
    """
    read_csv(path, ["formula"])
    header = pd.read_csv(path, nrows=0).columns.tolist()
    known = ["formula", *defaults]
    unknown = [name for name in header if name not in known]
    if unknown:
        raise BadInput(f"{path} has the unknown columns {', '.join(unknown)}; it may have {', '.join(known)}")
    requests = []
    for line, row in enumerate(read_csv(path, header).to_dict("records"), start=2):
        try:
            requests.append(Request.parse(**defaults | {name: word for name, word in row.items() if word}))
        except (BadInput, TypeError) as error:
            reason = "it has no formula" if isinstance(error, TypeError) else error
            raise BadInput(f"line {line} of {path}: {reason}") from error
    if not requests:
        raise BadInput(f"{path} holds no requests; give it a line for each")
    return requests


def formulas_of_system(system: str, max_atoms: int) -> list[str]:
    """All formulas in lowest terms of exactly the system's elements ("Ta-W-B"), with at most so many atoms.

    Raises:
        BadInput: a part is no element or stands twice, or so few atoms cannot hold all elements.
    """
    symbols = system.split("-")
    wrong = [symbol for symbol in symbols if symbol not in SYMBOLS[1:]]
    if wrong or len(set(symbols)) < len(symbols):
        raise BadInput(f"system {system!r} is no list of different elements; write it like Ta-W-B")
    counts = product(range(1, max_atoms + 1), repeat=len(symbols))
    fitting = [c for c in counts if sum(c) <= max_atoms and gcd(*c) == 1]
    if not fitting:
        raise BadInput(f"{max_atoms} atoms cannot hold all elements of {system}; give a larger --max-atoms")
    fitting.sort(key=lambda c: (sum(c), c))
    return ["".join(f"{s}{k if k > 1 else ''}" for s, k in zip(symbols, c, strict=True)) for c in fitting]


# -------------------------------------------------------------------------------------------------- candidates


def checked(request: Request, model: TrainedModel, shipped: Shipped) -> list[str]:
    """Warnings about a request that lies at the edge of what the model has learnt.

    Raises:
        BadInput: it lies outside: an element it has never seen, or more atoms than it takes.
    """
    unknown = sorted(SYMBOLS[list(set(request.species(1).tolist()) - set(shipped.elements))])
    if unknown:
        raise BadInput(
            f"{request.formula} contains {', '.join(unknown)}, which none of the model's training crystals does; "
            f"it knows {', '.join(SYMBOLS[list(shipped.elements)])}"
        )
    atoms, most = len(request.species(1)), model.representation.n_sites
    if atoms * request.z[-1] > most:
        fits = f"ask for z up to {most // atoms}" if atoms <= most else "ask for a smaller formula"
        raise BadInput(
            f"{request.z[-1]} x {request.formula} has {atoms * request.z[-1]} atoms and the model takes {most}; {fits}"
        )
    if isinstance(request.energy, str) and model.spec.network != "transformer":
        if request.energy == "any":
            raise BadInput(f"{model.spec.name} needs an energy; give one in eV/atom, or 'lowest'")
        return []
    low, high = shipped.energy
    if not request.polymorph and not isinstance(request.energy, str) and not low <= request.energy <= high:
        return [
            f"{request.formula}: {request.energy:g} eV/atom lies outside the training energies, {low:g} to {high:g}; "
            "expect structures that do not have it"
        ]
    return []


@dataclass(frozen=True)
class Asked:
    """One structure to make: for which request, with how many formula units, on which sites, at what energy.

    The crystal to improve on is judged among its answers; it is `given`, its sites are its own.
    """

    request: int
    z: int
    candidate: Candidate
    energy: float
    given: bool = False


def proposals(request: Request, number: int, shipped: Shipped, lent: LentSites | None = None) -> list[Asked]:
    """The n structures to make for a request, in order of the probability of their sites.

    Args:
        lent: what a training set lends, before the statistics in the weights' file.

    Raises:
        BadInput: none of the asked groups can hold the atoms.
    """
    energy = {"any": np.nan, "lowest": shipped.energies.lowest(request.formula)}.get(request.energy, request.energy)
    aim = np.nan if request.polymorph else energy
    above = aim - shipped.energies.expected(request.formula)
    choices = {}
    for z in request.z:
        wanted = request.species(z), request.n, request.space_groups
        choices[z] = lent.candidates(*wanted, aim) if lent else []
        choices[z] = choices[z] or shipped.sites.candidates(*wanted, above)
    possible = [z for z, candidates in choices.items() if candidates]
    if not possible:
        groups, numbers = (" or ".join(map(str, several)) for several in (request.space_groups, request.z))
        raise BadInput(
            f"no primitive cell of {numbers} x {request.formula} has space group {groups}, whose "
            "Wyckoff positions cannot hold the atoms, or only with higher symmetry; ask for another z or group"
        )
    asked = []
    for i, z in enumerate(possible):
        share = request.n // len(possible) + (i < request.n % len(possible))
        asked += [Asked(number, z, candidate, float(energy)) for candidate in shared_out(choices[z], share)]
    return sorted(asked, key=lambda one: -one.candidate.share)


def shared_out(candidates: Sequence[Candidate], n: int) -> list[Candidate]:
    """n structures over the candidates: probable sites several times, each time at half the worth of the last."""
    worth = [
        (max(candidate.share, UNSEEN) * AGAIN**times, -i)
        for i, candidate in enumerate(candidates)
        for times in range(n)
    ]
    return [candidates[-i] for _, i in sorted(worth, reverse=True)[:n]]


# ----------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True, eq=False)
class Answers:
    """What came of requests.

    Attributes:
        table: a row a structure, by request and rank: name, request, rank, formula, z, n_sites; asked_space_groups and
            space_group_0.01, space_group_0.1 (spglib, Å); sites_group and sites_share (the sites it was made on);
            asked_energy, formation_energy and energy_per_atom (eV/atom; nan where unknown); prototype.
        structures: in the same order.
        funnel: a row a request: asked, what was dropped and why, distinct.
        warnings: sentences.
    """

    table: pd.DataFrame
    structures: list[Structure]
    funnel: pd.DataFrame
    warnings: list[str]


def answer(
    requests: Sequence[Request],
    model: TrainedModel,
    *,
    lent: LentSites | None = None,
    relax: str = "none",
    seed: int = 42,
    n_workers: int = 2,
    resume: Path | None = None,
    **sampling,
) -> Answers:
    """Structures for requests, ranked.

    Args:
        lent: what a training set lends; else sites come from the statistics in the weights' file alone.
        relax: a potential of :data:`lib.relaxation.POTENTIALS`, or "none".
        resume: folder that keeps what an interrupted call has done.
        sampling: options of :meth:`lib.sampling.TrainedModel.generate`, before those that the weights name.

    Raises:
        BadInput: a request that the model cannot answer, or weights that were not exported.
    """
    shipped = Shipped.within(model.about)
    if {request.polymorph is not None for request in requests} != {model.spec.task == "modification"}:
        raise BadInput(f"{model.spec.name} is a {model.spec.task} model; crystals are improved by a modification model")
    if relax not in ("none", *POTENTIALS):
        raise BadInput(f"relax {relax!r} is not known; choose one of none, {', '.join(POTENTIALS)}")
    warnings = [warning for request in requests for warning in checked(request, model, shipped)]
    asked = [
        one
        for number, request in enumerate(progress(requests, desc="choosing sites", unit="request"))
        for one in proposals(request, number, shipped, lent)
    ]
    defaults = SAMPLING | (FROM_TEMPLATES if lent else {})
    structures = _sampled(requests, asked, model, defaults | shipped.sampling | sampling, seed, resume)
    given = {number: request.polymorph for number, request in enumerate(requests) if request.polymorph}
    asked += [Asked(number, 1, _own_sites(crystal), np.nan, given=True) for number, crystal in given.items()]
    structures += given.values()
    reasons = [reason_invalid(s, shipped.volumes) for s in progress(structures, desc="checking")]
    energy = np.full(len(asked), np.nan)
    if relax != "none":
        valid = [i for i, reason in enumerate(reasons) if not reason]
        settings = {"fmax": FMAX, "max_steps": MAX_STEPS}
        finished = resume / "relaxed" if resume else None
        results = relax_many([structures[i] for i in valid], relax, n_workers=n_workers, finished=finished, **settings)
        for i, result in zip(valid, results, strict=True):
            structures[i], energy[i] = result.structure, result.energy
            reasons[i] = (
                "not relaxed"
                if result.failure
                else reason_invalid(result.structure, shipped.volumes, MIN_DISTANCE_AFTER)
            )
    warnings += [
        f"the given {requests[one.request].formula} is left out ({reason}); its improvements stand alone"
        for one, reason in zip(asked, reasons, strict=True)
        if one.given and reason
    ]
    elements = {} if relax == "none" else references.of_kind(shipped.energy_kind, relax)
    return _ranked(requests, asked, structures, reasons, energy, elements, warnings)


def _own_sites(crystal: Structure) -> Candidate:
    numbers = np.array(crystal.atomic_numbers)
    return Candidate(AsymmetricUnit.of(crystal.lattice.matrix, crystal.frac_coords, numbers, SYMPREC), np.nan)


def _polymorphs(requests: Sequence[Request], asked: list[Asked]) -> CrystalTable | None:
    """x_0 of each structure to make, if they are to improve on crystals."""
    crystals = [requests[one.request].polymorph for one in asked]
    if not all(crystals):
        return None
    names, unknown = [str(i) for i in range(len(crystals))], np.zeros(len(crystals))
    return CrystalTable.from_structures(crystals, id=names, formation_energy=unknown, energy_kind="unknown")


def _sampled(requests, asked: list[Asked], model: TrainedModel, sampling: dict, seed: int, resume: Path | None):
    units: list[AsymmetricUnit] = [one.candidate.unit for one in asked]
    return model.generate(
        [requests[one.request].species(one.z) for one in asked],
        np.array([unit.symmetry for unit in units]),
        np.array([one.energy for one in asked]),
        units=units,
        x_0=_polymorphs(requests, asked),
        seed=seed,
        resume=resume,
        **sampling,
    )


def _ranked(requests, asked, structures, reasons, energy, elements: Mapping[str, float], warnings) -> Answers:
    """Valid structures by request and rank, without what equals a better one or the given crystal."""
    number = np.array([one.request for one in asked])
    share = np.array([one.candidate.share for one in asked])
    given = np.array([one.given for one in asked])
    by_rank = np.arange(len(asked)), -share, energy, number  # energies are all nan without a potential
    order = [i for i in np.lexsort((*by_rank[:3], ~given, number)) if not reasons[i]]
    first = first_of_kind([asked[i].request for i in order], [structures[i] for i in order])
    distinct = {i for i, is_first in zip(order, first, strict=True) if is_first}
    kept = [i for i in np.lexsort(by_rank) if i in distinct]
    outcome = [reason or "equals another" for reason in reasons]
    for i in kept:
        outcome[i] = "given" if given[i] else "distinct"
    rows = [
        _row(requests[asked[i].request], asked[i], structures[i], energy[i], elements)
        for i in progress(kept, desc="comparing with prototypes")
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    if given.any():
        own = dict(zip(number[given] + 1, energy[given], strict=True))
        table["given"] = given[kept]
        table["below_given"] = (table["request"].map(own) - table["energy_per_atom"]).round(4)
    table["rank"] = table.groupby("request").cumcount() + 1
    table["name"] = _names(requests, table)
    counts = pd.crosstab(number, np.array(outcome)).rename_axis(index=None, columns=None)
    funnel = pd.DataFrame({"request": list(map(str, requests)), "asked": counts.sum(axis=1)})
    funnel = funnel.join(counts.drop(columns="distinct", errors="ignore")).assign(distinct=counts.get("distinct", 0))
    return Answers(table, [structures[i] for i in kept], funnel, warnings)


COLUMNS = ["name", "request", "rank", "formula", "z", "n_sites", "asked_space_groups", "sites_group", "sites_share"]
COLUMNS += ["template", "space_group_0.01", "space_group_0.1", "asked_energy", "formation_energy", "energy_per_atom"]
COLUMNS += ["volume_per_atom", "prototype"]


def _row(request: Request, asked: Asked, structure: Structure, energy: float, elements: Mapping[str, float]) -> dict:
    numbers = np.array(structure.atomic_numbers)
    known = np.isfinite(energy) and set(SYMBOLS[numbers]) <= set(elements)
    formed = formation_energy(energy, numbers, elements) if known else np.nan
    return {
        "request": asked.request + 1,
        "formula": request.label,
        "z": asked.z,
        "n_sites": len(structure),
        "asked_space_groups": "any" if request.space_groups is None else ",".join(map(str, request.space_groups)),
        "sites_group": asked.candidate.unit.symmetry,
        "sites_share": round(max(asked.candidate.share, 0.0), 4),  # a regression's promise may lie below
        "template": asked.candidate.template,
        **{f"space_group_{s:g}": obtained_space_group(structure, s) for s in (SYMPREC, matching.SYMPREC)},
        "asked_energy": round(asked.energy, 4),
        "formation_energy": round(float(formed), 4),
        "energy_per_atom": round(float(energy), 4),
        "volume_per_atom": round(structure.volume / len(structure), 3),
        "prototype": prototype_of(structure),
    }


def _names(requests: Sequence[Request], table: pd.DataFrame) -> list[str]:
    """Formula and rank; the number of the request, too, where several are for one formula."""
    formulas = [request.label for request in requests]
    return [
        f"{row.formula}_{f'{row.request}_' if formulas.count(row.formula) > 1 else ''}{row.rank:03d}"
        for row in table.itertuples()
    ]


@functools.cache
def _prototypes() -> dict[str, list[tuple[str, Structure]]]:
    """AFLOW's prototypes by anonymous formula: label with the mineral's name, and primitive cell."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    found: dict[str, list[tuple[str, Structure]]] = {}
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure, tags = entry["snl"].structure, entry["tags"]
        label = f"{tags['aflow']} ({tags['mineral']})" if tags.get("mineral") else tags["aflow"]
        found.setdefault(structure.composition.anonymized_formula, []).append((label, structure))
    return found


def prototype_of(structure: Structure) -> str:
    """The AFLOW prototype (Mehl et al., 10.1016/j.commatsci.2017.01.017) that a structure resembles most, or "".

    Elements and volume do not count; of those that match at StructureMatcher's default tolerances the one with the
    least root mean square displacement is taken. That does not tell a strained cell: rock salt matches TlF's, whose
    axes differ in length, without displacement. So of equals the one in the structure's own space group goes first.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher, own = StructureMatcher(), f"_{obtained_space_group(structure, matching.SYMPREC)}_"
    best = (np.inf, True, "")
    for label, prototype in _prototypes().get(structure.composition.anonymized_formula, []):
        rms, _ = matcher.get_rms_anonymous(prototype, structure)
        if rms is not None:
            best = min(best, (round(rms, 3), own not in label, label))
    return best[-1]


# ------------------------------------------------------------------------------------------------------- files


def provenance(model: TrainedModel, weights: Path, *, command: str, relax: str, seed: int) -> dict[str, object]:
    """Where structures come from, for every file that holds them."""
    shipped = Shipped.within(model.about, weights)
    facts = {
        "command": command,
        "weights": weights.name,
        "weights_sha256": model.checksum,
        "trained_on": f"{shipped.data} ({shipped.crystals} crystals)",
        "licence": shipped.licence,
        "version": str(code_version()["commit"]),
        "seed": seed,
    }
    return facts if relax == "none" else facts | potential_provenance(relax)


def write(answers: Answers, requests: Sequence[Request], about: Mapping[str, object], folder: Path) -> None:
    """CIF files, structures.extxyz, summary.csv and about.json; CIF files of an earlier answer in the folder go."""
    summary = folder / "summary.csv"
    earlier = read_csv(summary, ["name"])["name"].tolist() if summary.exists() else []
    rows = answers.table.to_dict("records")
    facts = [_facts(row) | {"asked": str(requests[row["request"] - 1]), **about} for row in rows]
    for row, fact, structure in zip(rows, facts, answers.structures, strict=True):
        with replacing(folder / f"{row['name']}.cif") as temporary:
            temporary.write_text(cif_of(structure, row["name"], fact))
    _write_extxyz(answers.structures, facts, folder / "structures.extxyz")
    with replacing(summary) as temporary:
        answers.table.to_csv(temporary, index=False)
    write_json(folder / "about.json", {**about, "requests": list(map(str, requests)), "warnings": answers.warnings})
    for name in set(earlier) - {row["name"] for row in rows}:
        (folder / f"{name}.cif").unlink(missing_ok=True)


def _facts(row: Mapping[str, object]) -> dict[str, object]:
    """A row of the table without what is not known, with `id` for its name, as :mod:`lib.evaluate` reads it."""
    known = {k: v for k, v in row.items() if v == v and v != "" and k != "name"}
    return {"id": row["name"]} | known


def cif_of(structure: Structure, name: str, facts: Mapping[str, object]) -> str:
    """A CIF with its symmetry (spglib, 0.01 Å), the facts as comments above."""
    lines = [f"# {key}: {' '.join(str(value).split())}" for key, value in facts.items()]
    cif = str(CifWriter(structure, symprec=SYMPREC)).split("\n", 1)[1]  # its first line is a comment of its own
    return "\n".join(lines) + "\n" + re.sub(r"^data_.*$", f"data_{name}", cif, count=1, flags=re.M)


def _write_extxyz(structures: Iterable[Structure], facts: Iterable[Mapping[str, object]], path: Path) -> None:
    import ase.io
    from pymatgen.io.ase import AseAtomsAdaptor

    frames = []
    for structure, fact in zip(structures, facts, strict=True):
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        atoms.info = dict(fact)
        frames.append(atoms)
    with replacing(path) as temporary:
        if frames:
            ase.io.write(temporary, frames, format="extxyz")
        else:
            temporary.touch()


# ------------------------------------------------------------------------------------------------ command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lib.generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("formulas", nargs="*", metavar="FORMULA", help="such as TaW2B5")
    parser.add_argument("--requests", type=Path, help="csv file of requests")
    parser.add_argument("--system", help="chemical system, such as Ta-W-B")
    parser.add_argument("--max-atoms", type=int, default=MAX_SYSTEM_ATOMS, help="of a formula of --system")
    parser.add_argument("--improve", nargs="+", type=Path, metavar="FILE", help="crystals to find better polymorphs of")
    parser.add_argument("--space-group", default="any", help="any, or numbers such as 225 or 221,225")
    parser.add_argument(
        "--energy", default="any", help="any, lowest, or eV/atom: formation energy, or of --improve the difference"
    )
    parser.add_argument(
        "--z", help="formula units in the primitive cell: 2, or 1..4 (default: 1; of --improve its own)"
    )
    parser.add_argument("--n", default="16", help="structures for each request")
    parser.add_argument("--relax", default="none", choices=["none", *POTENTIALS])
    parser.add_argument("--out", type=Path, required=True, help="folder for the answers")
    parser.add_argument(
        "--weights", type=Path, help=f"exported weights (default: {', '.join(DEFAULT_WEIGHTS.values())})"
    )
    parser.add_argument(
        "--templates", type=Path, metavar="RUN", help="folder of a run whose training crystals lend, outputs/mp20_cpu"
    )
    parser.add_argument("--steps", type=int, help="sampling steps (default: what the weights name)")
    parser.add_argument("--guidance", type=float, help="how strongly conditions pull: 1 as trained, 2 twice as far")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--workers", type=int, default=2, help="processes that relax and learn")
    return parser


def requests_of(given: argparse.Namespace) -> list[Request]:
    """What a command line asks for.

    Raises:
        BadInput: nothing, or in several ways at once.
    """
    defaults = {
        "space_group": given.space_group,
        "energy": given.energy,
        "z": "1" if given.z is None else given.z,
        "n": given.n,
    }
    if sum(map(bool, (given.formulas, given.requests, given.system, given.improve))) != 1:
        raise BadInput("give formulas, or --requests, or --system, or --improve: one of the four")
    if given.improve:
        if given.z is not None:
            raise BadInput(
                f"--z {given.z} is not for --improve, whose answers have the atoms of the given cell; drop it"
            )
        crystals = read_structures(given.improve).values()
        return [Request.improving(crystal, given.space_group, given.energy, given.n) for crystal in crystals]
    if given.requests:
        return read_requests(given.requests, **defaults)
    formulas = given.formulas or formulas_of_system(given.system, given.max_atoms)
    return [Request.parse(formula, **defaults) for formula in formulas]


@command()
def main(words: Sequence[str] | None = None) -> None:
    """Command line; see the module's first lines."""
    words = sys.argv[1:] if words is None else list(words)
    given = _parser().parse_args(words)
    try:
        requests = requests_of(given)
        if given.steps is not None and given.steps < 1:
            raise BadInput(f"--steps {given.steps} is no positive number of steps")
        if given.guidance is not None and not 0 <= given.guidance <= MAX_GUIDANCE:
            raise BadInput(f"--guidance {given.guidance:g} is not between 0 and {MAX_GUIDANCE}; 1 is as trained")
        weights = given.weights or default_weights(DEFAULT_WEIGHTS["modification" if given.improve else "generation"])
        if not weights.is_file():
            raise BadInput(f"the weights {weights} do not exist; check --weights")
        model = load_model(weights, torch_device(given.device))
        resume = given.out / ".resume"
        resume.mkdir(parents=True, exist_ok=True)
        how = {name: value for name in ("steps", "guidance") if (value := getattr(given, name)) is not None}
        options = {"relax": given.relax, "seed": given.seed}
        asked = {request.space_groups is not None for request in requests}
        lent = LentSites.of_run(given.templates, n_workers=given.workers, asked=asked) if given.templates else None
        answers = answer(requests, model, lent=lent, **options, n_workers=given.workers, resume=resume, **how)
        about = provenance(model, weights, command=shlex.join(["python", "-m", "lib.generate", *words]), **options)
        write(answers, requests, about, given.out)
    except BadInput as error:
        sys.exit(f"\n{error}\n")
    shutil.rmtree(resume)
    for warning in answers.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(answers.funnel.to_string(index=False))
    shown = answers.table.drop(columns=["request", "n_sites", "sites_share", "volume_per_atom"])
    print(shown.head(20).to_string(index=False, na_rep="-"))
    print(f"{len(answers.structures)} structures in {given.out}")


if __name__ == "__main__":
    main()
