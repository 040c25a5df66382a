"""CIF files: the crystal of every data block, by the symmetry that the block names, checked against what else it says.

The symmetry is that of the operator loop, else of the Hall symbol, the Hermann-Mauguin name and the number together.
Where these leave several settings open (origin choices, axes), the chemical formula and Z decide, then the distances;
where neither does, the block is refused. Text is parsed by gemmi (Wojdyr, 10.21105/joss.04200).
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import gemmi
import numpy as np
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.crystals.elements import SYMBOLS
from lib.crystals.expansion import Expanded, expand, likeliest
from lib.crystals.structure_checks import cell, check, closest, element, number
from lib.symmetry import settings
from lib.symmetry.settings import FITS_CELL, IDENTITY, Setting

OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
NAMES = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt", "_space_group_name_H-M_full")
HALL_SYMBOLS = ("_symmetry_space_group_name_Hall", "_space_group_name_Hall")
GROUP_NUMBERS = ("_symmetry_Int_Tables_number", "_space_group_IT_number")
CELL = [f"_cell_{name}" for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")]
COORDINATES = [f"_atom_site_fract_{axis}" for axis in "xyz"]
SYMMETRY = re.compile(r"_(symmetry|space_group)[_.]", re.IGNORECASE)
DOTTED = re.compile(r"_(symmetry_equiv|symmetry|space_group_symop|space_group)_")
TRIVIAL = ("", "p1", "1", "c1", "c1^1", "c1.1", "x,y,z")
NO_SYMMETRY = re.compile(r".*(cell_setting|crystal_system|id)", re.IGNORECASE)  # say nothing that could be applied
MULTIPLICITIES = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity")
UNREADABLE = {  # what a tag stands for that is not read here
    "_space_group_symop_magn": "magnetic symmetry operations; give those of the crystal in " + OPERATIONS[1],
    "_cell_modulation_dimension": "a modulated structure; give its average or a supercell",
    "save_": "save frames; make them data blocks",
}
TOO_NEAR = 0.5  # Å; symmetry that brings two atoms nearer than this was misread
FULL = 1e-4  # an occupancy that is nearer to 1 is 1
_TYPE = re.compile(r"([A-Za-z]+)(?:\d*\.?\d*[+-]|[+-]\d*\.?\d*)?")  # Cs, Cs+, Cs1+, Cs+1
_FORMULA = re.compile(r"\s*([A-Z][a-z]?)(\d*\.?\d*)")


def read_cif(text: str) -> list[tuple[str, Structure]]:
    """Name and crystal of every data block that has one; blocks without cell and sites, as of authors, are passed over.
    Raises BadInput if the text is no CIF, holds no crystal, or a block is wrong or ambiguous; the sentence names the
    block where there are several."""
    try:  # other characters than ASCII matter in no value that is read here, and gemmi takes few of them
        document = gemmi.cif.read_string(text.encode("ascii", "xmlcharrefreplace").decode())
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"it does not parse as CIF ({str(error).splitlines()[0]}); correct it") from error
    blocks = [block for block in document if _has(block, CELL[:1]) or _has(block, ("_atom_site_label", *COORDINATES))]
    if not blocks:
        dotted = " but _cell.length_a; name it _cell_length_a and so on" if "_cell.length_a" in text else ""
        raise BadInput(f"it does not parse as CIF of a crystal (no data block has {CELL[0]}{dotted})")
    for tag, words in UNREADABLE.items():
        if re.search(rf"^\s*{tag}", text, re.IGNORECASE | re.MULTILINE):
            raise BadInput(f"it has {words}")
    found = []
    for block in blocks:
        try:
            found.append((block.name, _Block(block).structure()))
        except BadInput as error:
            raise error if len(blocks) == 1 else BadInput(f"data block {block.name}: {error}") from error
    return found


def _has(block: gemmi.cif.Block, tags: Sequence[str]) -> bool:
    return any(block.find_values(tag) for tag in tags)


def symbol_of(type_symbol: str | None, label: str, formula: Mapping[str, float]) -> str:
    """The element of an atom site by its type symbol, such as Cs, Cs1+ or CL, else by its label, such as Cs1.

    The formula, amounts by symbol, tells CS for caesium from CS for carbon and sulphur. Raises BadInput if neither is
    an element but a group of atoms, a vacancy, a metal or tetrahedral site.
    """
    written = label if type_symbol is None else type_symbol
    found = re.match(r"([A-Za-z]*)", label) if type_symbol is None else _TYPE.fullmatch(written)
    if found is None and written == label:  # some programs write the label where the type belongs
        found = re.fullmatch(r"([A-Za-z]+)\d+", written)
    letters = found[1] if found and not (type_symbol is None and _is_formula(label)) else ""
    if letters in ("D", "T") and type_symbol is not None and not written[1:2].isdigit():
        return "H"  # but T1 alone is a tetrahedral site, and D1 alone a label like any other
    if letters in SYMBOLS[1:]:
        return letters
    proper = letters.capitalize()  # CS is caesium only where label or formula say Cs
    if letters.isupper() and proper in SYMBOLS[1:] and proper in (*formula, re.match("[A-Za-z]*", label)[0]):
        return proper
    what = f"_atom_site_type_symbol {written} of {label}" if type_symbol is not None else f"the label {label}"
    raise BadInput(f"{what} names no element; give _atom_site_type_symbol such as Ta, or the atoms it stands for")


def _is_formula(label: str) -> bool:
    """Whether a label is a group of atoms, such as H2O1 and NH4; O1W may well be an oxygen."""
    symbols = {symbol for symbol, _ in _FORMULA.findall(label)}
    whole = len(symbols) > 1 and symbols <= set(SYMBOLS[1:]) and not _FORMULA.sub("", label)
    return whole and ("H" in symbols or label[-1].isdigit())


class _Block:
    """One data block with a cell or sites."""

    def __init__(self, block: gemmi.cif.Block):
        self.block = block
        self.formula = self._formula()
        self.z = number(z, "_cell_formula_units_Z") if (z := self.value("_cell_formula_units_Z")) else None
        self.lattice = self._cell()
        self._sites()

    def value(self, *tags: str) -> str | None:
        """The first value of the tags that is given: "?" and "." are none."""
        return next(iter(self.values(*tags)), (None, None))[1]

    def values(self, *tags: str) -> list[tuple[str, str]]:
        """Tag and value of those of the tags that are given."""
        found = [(tag, column[0]) for tag in tags if (column := self.column(tag))]
        return [(tag, _text(value)) for tag, value in found if not gemmi.cif.is_null(value) and _text(value)]

    def column(self, tag: str) -> list[str] | None:
        """The values of a loop as they are written; None where there is no such column.

        Newer dictionaries have a dot in the names of symmetry: _space_group.name_H-M_alt.
        """
        spellings = [tag, *(match[0][:-1] + "." + tag[match.end() :] for match in [DOTTED.match(tag)] if match)]
        return next((list(values) for name in spellings if (values := self.block.find_values(name))), None)

    def _unknown_symmetry(self) -> tuple[str, str] | None:
        """Name and value of what speaks of a symmetry other than P 1 in words that are not read here."""
        pairs = [item.pair[0] for item in self.block if item.pair]
        tags = [*pairs, *(tag for item in self.block if item.loop for tag in item.loop.tags)]
        for tag in (t for t in tags if SYMMETRY.match(t) and not NO_SYMMETRY.fullmatch(t)):
            for value in self.column(tag):
                if not gemmi.cif.is_null(value) and _text(value).replace(" ", "").lower() not in TRIVIAL:
                    return tag, _text(value)
        return None

    def _cell(self) -> np.ndarray:
        values = []
        for tag in CELL:
            if (value := self.value(tag)) is None:
                raise BadInput(f"it has no {tag}; give the whole cell")
            values.append(number(value, tag))
        return cell(values, CELL)

    def _formula(self) -> dict[str, float]:
        """Amounts by symbol; empty where none is given."""
        text = self.value("_chemical_formula_sum") or ""
        if _FORMULA.sub("", text).strip():
            raise BadInput(f"_chemical_formula_sum {text!r} does not parse; write it like 'Ta W2 B5' or remove it")
        amounts: Counter[str] = Counter()
        for symbol, amount in _FORMULA.findall(text):
            element(symbol, f"part of _chemical_formula_sum {text!r}")
            amounts["H" if symbol in ("D", "T") else symbol] += float(amount or 1)
        return dict(amounts)

    def _sites(self) -> None:
        """Labels, elements and coordinates of the sites, all of them fully occupied."""
        missing = [tag for tag in COORDINATES if self.column(tag) is None]
        if missing:
            raise BadInput(f"it has no {missing[0]}; give fractional coordinates")
        columns = [self.column(tag) for tag in COORDINATES]
        n = len(columns[0])
        types, labels = self.column("_atom_site_type_symbol"), self.column("_atom_site_label")
        if types is None and labels is None:
            raise BadInput("it has neither _atom_site_type_symbol nor _atom_site_label; name the elements")
        self.labels = [_text(label) for label in labels or types]
        symbols = [None if gemmi.cif.is_null(t) else _text(t) for t in types or ["?"] * n]
        found = [symbol_of(t, label, self.formula) for t, label in zip(symbols, self.labels, strict=True)]
        self.species = np.array([element(symbol) for symbol in found])
        coords = [[number(text, f"{tag} of {label}") for text, label in zip(column, self.labels, strict=True)]
                  for tag, column in zip(COORDINATES, columns, strict=True)]  # fmt: skip
        self.frac_coords = np.array(coords).T
        if attached := [self.labels[i] for i, n in self._given("_atom_site_attached_hydrogens") if n > 0]:
            raise BadInput(f"hydrogens are attached to {' and '.join(attached)} without sites; give their coordinates")
        for i, occupancy in self._given("_atom_site_occupancy"):
            if abs(occupancy - 1) > FULL:
                why = "; give an ordered cell" if occupancy < 1 else ", above 1; correct it"
                partly = "it has partly occupied sites: " if occupancy < 1 else ""
                raise BadInput(f"{partly}{self.labels[i]} has occupancy {occupancy:g}{why}")
        groups = [_text(v) for v in self.column("_atom_site_disorder_group") or [] if not gemmi.cif.is_null(v)]
        if len(set(groups)) > 1:
            raise BadInput(f"its sites of _atom_site_disorder_group {groups[0]} and others take turns; keep one group")
        dummies = [label for label, flag in zip(self.labels, self.column("_atom_site_calc_flag") or [], strict=False)
                   if flag == "dum"]  # fmt: skip
        if dummies:
            raise BadInput(f"{dummies[0]} is a dummy site; remove it")

    def _given(self, tag: str) -> list[tuple[int, float]]:
        """Row and number of those values of a column that are given."""
        column = self.column(tag) or []
        return [(i, number(_text(v), f"{tag} of {self.labels[i]}")) for i, v in enumerate(column)
                if not gemmi.cif.is_null(v)]  # fmt: skip

    def _candidates(self) -> tuple[list[Setting], bool]:
        """The settings that the block can mean, and whether it says anything of its symmetry."""
        triplets = next(((tag, column) for tag in OPERATIONS if (column := self.column(tag))), None)
        named = self.values(*NAMES)
        numbers = self.values(*GROUP_NUMBERS)
        halls = self.values(*HALL_SYMBOLS)
        if _plain(triplets, named, numbers, halls):
            if unknown := self._unknown_symmetry():
                raise BadInput(f"{unknown[0]} {unknown[1]!r} is not read here; give {NAMES[1]} or {OPERATIONS[1]}")
            return [IDENTITY], bool(triplets or named or numbers or halls)
        said: list[tuple[str, list[Setting]]] = []
        for tag, name in named:
            found = settings.by_name(name)
            if not found and not triplets:
                raise BadInput(f"{tag} {name!r} is no space group that is known here; give {OPERATIONS[1]}")
            said += [(f"{tag} {name!r}", found)] if found else []
        for tag, text in numbers:
            if not text.isdecimal():
                raise BadInput(f"{tag} {text} is no number from 1 to 230; correct it")
            said.append((f"{tag} {text}", settings.by_number(int(text))))
        for tag, symbol in halls:
            try:
                said.append((f"{tag} {symbol!r}", [settings.by_hall(symbol)]))
            except BadInput:
                if not triplets:
                    raise
        if triplets:
            tag, column = triplets
            said.insert(0, (f"the operations of {tag}", [settings.by_operations([_text(t) for t in column], tag)]))
        for i, (words, found) in enumerate(said):
            for others, those in said[:i]:
                if different := _difference(found, those):
                    raise BadInput(f"{others} and {words} are different {different}; correct one")
        first = said[0][1]
        if not triplets:  # the settings that all allow; those of a Hall symbol that is not tabulated stand alone
            exact = next((found for words, found in said if "Hall" in words), None)
            first = exact or [s for s in first if all(any(s is other for other in found) for _, found in said)]
        fitting = [setting for setting in first if setting.misfit(self.lattice) <= FITS_CELL]
        if not fitting:
            raise BadInput(f"the cell does not fit {said[0][0]}; correct one of them")
        if named and not triplets and all(3 <= setting.number <= 15 for setting in fitting):
            # of the unique axes that a short monoclinic name leaves open the best for the cell, b before c before a
            fitting = [min(fitting, key=lambda setting: round(setting.misfit(self.lattice), 4))]
        return fitting, True

    def structure(self) -> Structure:
        """The crystal. Raises BadInput if it contradicts its formula, atoms coincide, or several settings remain."""
        candidates, declared = self._candidates()
        possible, reasons = [], []
        for setting in candidates:
            try:
                possible.append(self._checked(setting, declared))
            except BadInput as error:
                reasons.append(error)
        if not possible:
            raise reasons[0]
        possible = likeliest(possible, self.lattice, self.species, bool(self.formula and reasons))
        if len(possible) > 1:
            names = [atoms.setting.name for atoms in possible]
            raise BadInput(
                f"space group {possible[0].setting.number} has several settings, and nothing tells which of "
                f"{', '.join(names[:-1])} and {names[-1]} is meant; name it so in {NAMES[1]}, or give {OPERATIONS[1]}"
            )
        species, frac_coords = self.species[possible[0].site], possible[0].frac_coords
        return Structure(Lattice(self.lattice), species.tolist(), frac_coords, to_unit_cell=False)

    def _checked(self, setting: Setting, declared: bool) -> Expanded:
        atoms = expand(setting, self.lattice, self.frac_coords)
        species, labels = self.species[atoms.site], [self.labels[i] for i in atoms.site]
        self._agrees_with_formula(species, declared, setting)
        check(self.lattice, species, atoms.frac_coords, labels)
        if len(setting.rotations) > 1:
            pair = closest(self.lattice, atoms.frac_coords, TOO_NEAR)
            if pair:
                one, other, distance = pair
                raise BadInput(
                    f"by the symmetry {setting.name} {labels[one]} and {labels[other]} come {distance:.2f} Å near; "
                    f"correct the space group or give {OPERATIONS[1]}"
                )
        if not self.formula:
            counts = np.bincount(atoms.site, minlength=len(self.labels))
            for tag in MULTIPLICITIES:
                for i, said in self._given(tag):
                    if said != counts[i]:
                        raise BadInput(
                            f"{tag} of {self.labels[i]} is {said:g}, but the symmetry {setting.name} makes "
                            f"{counts[i]} atoms of it; correct one of them"
                        )
        return atoms

    def _agrees_with_formula(self, species: np.ndarray, declared: bool, setting: Setting) -> None:
        """By the standard the cell holds Z formulas; pymatgen writes those of the whole cell as one, beside the same Z.
        Raises BadInput if neither is so."""
        if not self.formula:
            return
        symbols, counts = np.unique(SYMBOLS[species], return_counts=True)
        held = dict(zip(symbols.tolist(), counts.tolist(), strict=True))
        formula = " ".join(f"{symbol}{amount:g}" for symbol, amount in self.formula.items())
        lacking, strange = sorted(set(self.formula) - set(held)), sorted(set(held) - set(self.formula))
        if lacking or strange:
            names = ", ".join(lacking or strange)
            words = f"has {names}, which the sites lack" if lacking else f"lacks {names}, which the sites have"
            raise BadInput(f"_chemical_formula_sum {formula} {words}; add the atoms or correct the formula")
        ratios = np.array([held[symbol] / self.formula[symbol] for symbol in held])
        times = ratios.mean()
        whole_cell = abs(times - 1) < 0.02 and declared and self.z is not None and self._is_z_of_whole_cell()
        right = times if self.z is None else self.z
        wrong = np.ptp(ratios) > 0.02 * times or abs(times - round(times)) > 0.02 * times or round(times) < 1
        if wrong or (abs(times - right) > 0.02 * times and not whole_cell):
            found = " ".join(f"{symbol}{n}" for symbol, n in held.items())
            z = f" and Z = {self.z:g}" if self.z is not None else ""
            raise BadInput(
                f"by the symmetry {setting.name} its cell holds {found}, but _chemical_formula_sum is {formula}{z}; "
                f"correct the space group, the sites or the formula"
            )

    def _is_z_of_whole_cell(self) -> bool:
        common = math.gcd(*map(int, self.formula.values()))
        return self.z == common or (len(self.formula) == 1 and 2 * self.z == common)  # Z of O4 is that of two O2


def _text(value: str) -> str:
    return gemmi.cif.as_string(value).strip()


def _plain(triplets, named, numbers, halls) -> bool:
    """Whether all that is said is P 1, as in most machine-written files."""
    return (
        all(name.replace(" ", "") == "P1" for _, name in (*named, *halls))
        and all(text == "1" for _, text in numbers)
        and (triplets is None or [_text(t).replace(" ", "").lower() for t in triplets[1]] == ["x,y,z"])
    )


def _difference(one: list[Setting], other: list[Setting]) -> str:
    """What two statements do not share; "" where they can mean one setting, and of one not tabulated one number."""
    if not {setting.number for setting in one} & {setting.number for setting in other}:
        return "space groups"
    loose = any(len(some) == 1 and not settings.is_tabulated(some[0]) for some in (one, other))
    alike = {setting.signature for setting in one} & {setting.signature for setting in other}
    return "" if loose or alike else "settings of one group"
