"""What a user asks :mod:`lib.generation.generate` for: formulas, space groups, energies and numbers, from words to
values."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import product
from math import comb, gcd
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.crystals.elements import ALPHABETICAL, SYMBOLS, parse_formula
from lib.datasets.sources.files import read_csv
from lib.symmetry.cells import standardised
from lib.symmetry.settings import space_group_number

MAX_STRUCTURES, MAX_UNITS = 100_000, 1000  # of a request, and of formula units in a cell; more takes memory without end
MAX_FORMULAS = 100_000  # of a system


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    formula: str  # one formula unit
    space_groups: tuple[int, ...] | None  # those that will do; None for any
    energy: float | str  # eV/atom, "lowest" or "any"
    z: tuple[int, ...] | None  # numbers of formula units in the primitive cell; None for any
    n: int  # structures
    # the crystal to improve on, in a primitive cell; `energy` is then the difference from its own
    polymorph: Structure | None = None

    @classmethod
    def parse(
        cls, formula: str, space_group: str = "any", energy: str = "any", z: str = "any", n: str = "16"
    ) -> Request:
        """From the words of a command line or a csv file. Raises BadInput if one of them cannot be understood."""
        parts = re.split(r"[ \t,;]+", formula.strip())
        if len(parts) > 1 and all(map(_is_formula, parts)):
            raise BadInput(
                f"{formula!r} is not one formula; give each as a word of its own, without quotes: {' '.join(parts)}"
            )
        formula = re.sub(r"\s", "", formula)
        parse_formula(formula)
        return cls(formula, parse_space_groups(space_group), parse_energy(energy), parse_z(z), parse_n(n))

    @classmethod
    def improving(cls, crystal: Structure, space_group: str, energy: str, n: str) -> Request:
        """For other polymorphs of a crystal, with as many atoms as its primitive cell has. Raises BadInput if a word
        cannot be understood, or the energy is "lowest": it counts from the crystal's own."""
        if energy == "lowest":
            raise BadInput("energy 'lowest' says nothing of a difference; give it in eV/atom, such as -0.05, or 'any'")
        primitive = standardised(crystal)
        atoms = sorted(primitive.composition.element_composition.items(), key=lambda item: item[0].symbol)
        formula = "".join(f"{element}{int(count) if count > 1 else ''}" for element, count in atoms)
        return replace(cls.parse(formula, space_group, energy, "1", n), polymorph=primitive)

    @property
    def label(self) -> str:
        """The formula for file names: as given, or element by element where it has brackets."""
        if self.formula.isalnum():
            return self.formula
        return "".join(f"{e.symbol}{int(n) if n > 1 else ''}" for e, n in parse_formula(self.formula).items())

    def species(self, z: int) -> np.ndarray:
        """(n_sites,) atomic numbers of z formula units in canonical order."""
        composition = parse_formula(self.formula)
        species = np.repeat([e.Z for e in composition], [int(n) * z for n in composition.values()])
        return species[np.argsort(ALPHABETICAL[species], kind="stable")]

    def __str__(self) -> str:
        groups = "any" if self.space_groups is None else ",".join(map(str, self.space_groups))
        z = "any" if self.z is None else f"{self.z[0]}..{self.z[-1]}" if len(self.z) > 1 else str(self.z[0])
        return f"{self.formula}, space group {groups}, energy {self.energy}, z {z}, n {self.n}"


def _is_formula(text: str) -> bool:
    try:
        parse_formula(text)
    except BadInput:
        return False
    return True


def parse_space_groups(text: str) -> tuple[int, ...] | None:
    """Space groups from "any", or numbers and symbols such as "225,Pm-3m"."""
    if text.strip() == "any":
        return None
    return tuple(dict.fromkeys(space_group_number(word) for word in text.split(",")))


def parse_energy(text: str) -> float | str:
    """An energy from "any", "lowest" or eV/atom."""
    if text in ("any", "lowest"):
        return text
    try:
        energy = float(text.replace("_", "?"))  # Python reads 1_0 as ten
    except ValueError:
        energy = float("nan")
    if not np.isfinite(energy):
        raise BadInput(f"energy {text!r} is neither 'any' nor 'lowest' nor a number of eV/atom such as -0.5")
    return energy


def parse_z(text: str) -> tuple[int, ...] | None:
    """Numbers of formula units from "any", "2" or "1..4"."""
    if text.strip() == "any":
        return None
    found = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", text.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise BadInput(f"z {text!r} is neither 'any' nor a positive whole number nor a range of them such as '1..4'")
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
    """The requests of a csv file; `defaults` stand in for columns that are missing and cells that are empty. Raises
    BadInput if the file or one of its lines cannot be understood."""
    read_csv(path, ["formula"])
    header = pd.read_csv(path, nrows=0).columns.tolist()
    known = ["formula", *defaults]
    unknown = [name for name in header if name not in known]
    if unknown:
        raise BadInput(f"{path} has the unknown columns {', '.join(unknown)}; it may have {', '.join(known)}")
    requests = []
    for line, row in enumerate(read_csv(path, header).to_dict("records"), start=2):
        if not row["formula"]:
            raise BadInput(f"line {line} of {path}: it has no formula")
        try:
            requests.append(Request.parse(**defaults | {name: word for name, word in row.items() if word}))
        except BadInput as error:
            raise BadInput(f"line {line} of {path}: {error}") from error
    if not requests:
        raise BadInput(f"{path} holds no requests; give it a line for each")
    return requests


def formulas_of_system(system: str, max_atoms: int) -> list[str]:
    """All formulas in lowest terms of exactly the system's elements ("Ta-W-B"), with at most so many atoms. Raises
    BadInput if a part is no element or stands twice, so few atoms cannot hold all elements, or they are too many."""
    symbols = system.split("-")
    wrong = [symbol for symbol in symbols if symbol not in SYMBOLS[1:]]
    if wrong or len(set(symbols)) < len(symbols):
        raise BadInput(f"system {system!r} is no list of different elements; write it like Ta-W-B")
    if comb(max_atoms, len(symbols)) > MAX_FORMULAS:  # so many sums of positive counts are at most max_atoms
        raise BadInput(f"{system} has more than {MAX_FORMULAS:,} formulas of {max_atoms} atoms; give fewer --max-atoms")
    counts = product(range(1, max_atoms + 1), repeat=len(symbols))
    fitting = [c for c in counts if sum(c) <= max_atoms and gcd(*c) == 1]
    if not fitting:
        raise BadInput(f"{max_atoms} atoms cannot hold all elements of {system}; give a larger --max-atoms")
    fitting.sort(key=lambda c: (sum(c), c))
    return ["".join(f"{s}{k if k > 1 else ''}" for s, k in zip(symbols, c, strict=True)) for c in fitting]
