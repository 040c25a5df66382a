"""Settings of space groups: the symmetry operations that a name, a number, a Hall symbol or a list of operations means.

The tables are gemmi's (Wojdyr, 10.21105/joss.04200): the 530 settings of International Tables vol. B and some more.
"""

import difflib
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import gemmi
import numpy as np
import spglib
from spglib.error import SpglibError

from lib.core.errors import BadInput
from lib.symmetry.spacegroups import checked_space_group

TABULATED = 530
FITS_CELL = 0.02  # of Setting.misfit: cells are rounded and relaxed
_TERM = re.compile(r"([+-]?)(?:(\d+/\d+|\d+\.?\d*|\.\d+)|([xyz]))")
# origin choice or axes behind the name: "F d -3 m :2", "R -3 m H", "F d -3 m S" (origin 1) or "Z" (origin 2)
_EXTENSION = re.compile(r"(.*?)\s*(?::|\s|\(|(?<=[a-z0-9]))\s*(?:o|origin\s*)?([12hrsz])\)?", re.IGNORECASE)
_EXTENSIONS = {"S": "1", "Z": "2"}


@dataclass(frozen=True, eq=False)
class Setting:
    """A space group in one setting."""

    name: str  # such as "F d -3 m:1", or what the operations stand in
    number: int | None  # 1 to 230; None where the operations form no group
    rotations: np.ndarray  # (n, 3, 3) integers
    translations: np.ndarray  # (n, 3) fractions of the cell in [0, 1)

    @functools.cached_property
    def signature(self) -> frozenset[tuple[int, ...]]:
        """The operations as a set, translations in 24ths."""
        places = np.round(self.translations * 24).astype(int) % 24
        return frozenset(map(tuple, np.hstack([self.rotations.reshape(-1, 9), places]).tolist()))

    def misfit(self, lattice: np.ndarray) -> float:
        """The largest change that the operations bring to the metric of a cell (3, 3), in units of its lengths."""
        metric = lattice @ lattice.T
        scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
        turned = np.einsum("nki,kl,nlj->nij", self.rotations, metric, self.rotations)
        return float((np.abs(turned - metric) / scale).max())


IDENTITY = Setting("P 1", 1, np.eye(3, dtype=int)[None], np.zeros((1, 3)))


def _setting(name: str, number: int | None, operations: Iterable[gemmi.Op]) -> Setting:
    operations = list(operations)
    rotations = np.array([operation.rot for operation in operations]) // gemmi.Op.DEN
    return Setting(name, number, rotations, np.array([o.tran for o in operations]) / gemmi.Op.DEN % 1)


@functools.cache
def _table() -> list[Setting]:
    return [_setting(group.xhm(), group.number, group.operations()) for group in gemmi.spacegroup_table()]


@functools.cache
def _by_signature() -> dict[frozenset, Setting]:
    return {setting.signature: setting for setting in reversed(_table())}


def _key(name: str) -> str:
    return re.sub(r"[\s_()]", "", name).lower()


@functools.cache
def _by_name() -> dict[str, list[tuple[str, Setting]]]:
    """Origin choice or axes ("1", "2", "H", "R" or ""), and setting, of every spelling of a name."""
    found: dict[str, list[tuple[str, Setting]]] = defaultdict(list)
    for i, (group, setting) in enumerate(zip(gemmi.spacegroup_table(), _table(), strict=True)):
        spellings = {_key(group.hm), _key(group.short_name())}
        if 3 <= group.number <= 15:  # "P 21/b" is "P 1 1 21/b"
            spellings.add(_key("".join(part for part in group.hm.split() if part != "1")))
        if i < TABULATED:  # "F 4/m -3 2/m"
            spellings.add(_key(spglib.get_spacegroup_type(i + 1).international_full))
        if group.number >= 195:  # "F m 3 m", as written before 1992
            spellings |= {spelling.replace("-3", "3") for spelling in spellings}
        for spelling in spellings:
            found[spelling].append((group.ext.strip("\0"), setting))
    return dict(found)


def by_number(number: int) -> list[Setting]:
    """The settings of a space group in International Tables. Raises BadInput if there is no such group."""
    return [setting for setting in _table()[:TABULATED] if setting.number == checked_space_group(number)]


def space_group_number(word: str) -> int:
    """The space group that a word names: its number, or its Hermann-Mauguin symbol such as Fm-3m, P6_3/mmc or Pbnm.

    All that :func:`by_name` knows will do, such as Fm3m; capitals, blanks and underscores do not count, nor does what
    follows a colon. The setting itself is not heeded: Pbnm is group 62 as Pnma is. Raises BadInput if there is no such
    group.
    """
    if re.fullmatch(r"\s*\d+\s*", word):
        return checked_space_group(int(word))
    if found := by_name(word.partition(":")[0]):
        return found[0].number
    near = difflib.get_close_matches(_key(word), _by_name(), n=1)
    hint = f"; is it group {by_name(near[0])[0].number}, {near[0].capitalize()}?" if near else ""
    raise BadInput(f"space group {word.strip()!r} is neither a number from 1 to 230 nor a symbol such as Fm-3m{hint}")


def by_name(name: str) -> list[Setting]:
    """The settings that a Hermann-Mauguin name can mean, the usual first: old, short, full, with or without an origin;
    none where the name is not known."""
    table, extension = _by_name(), ""
    found = table.get(_key(name))
    if found is None and (parts := _EXTENSION.fullmatch(name.strip())):
        extension = _EXTENSIONS.get(parts[2].upper(), parts[2].upper())
        found = [pair for pair in table.get(_key(parts[1]), []) if pair[0] == extension]
    if not found:  # what gemmi knows besides, such as the double glide of "C m c e"
        group = gemmi.find_spacegroup_by_name(name)
        found = table[_key(group.hm)] if group and not extension else []
    return [setting for _, setting in found]


def by_hall(symbol: str) -> Setting:
    """The setting of a Hall symbol (Hall, 10.1107/S0567739481001228), tabulated or not. Raises BadInput if it does not
    parse."""
    try:
        operations = gemmi.symops_from_hall(symbol)
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"the Hall symbol {symbol!r} does not parse ({error}); correct or remove it") from error
    return _tabulated(_setting(f"Hall symbol {symbol}", None, operations))


def by_operations(triplets: Sequence[str], name: str) -> Setting:
    """The setting of operations such as "-x, y+1/2, -z", tabulated or not. Raises BadInput if one does not parse, x,y,z
    is not among them, or their rotations form no group."""
    try:
        parsed = dict.fromkeys(map(_operation, triplets))
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error
    rotations = np.array([rotation for rotation, _ in parsed]).reshape(-1, 3, 3)
    found = Setting(name, None, rotations, np.array([translation for _, translation in parsed]))
    if not (found.signature >= IDENTITY.signature):
        raise BadInput(f"{name} lacks x,y,z; give all operations")
    if not (is_tabulated(found) or _are_whole(rotations)):
        raise BadInput(f"the operations of {name} are no group, as some are missing or wrong; give all of them")
    return _tabulated(found)


def is_tabulated(setting: Setting) -> bool:
    """Whether a setting is one of the tables'."""
    return setting.signature in _by_signature()


def _are_whole(rotations: np.ndarray) -> bool:
    """Whether any two rotations, one after the other, are one of them, and each stands as often as the others.

    Translations are not judged: files round them.
    """
    distinct, counts = np.unique(rotations.reshape(-1, 9), axis=0, return_counts=True)
    turned = np.einsum("aij,bjk->abik", *[distinct.reshape(-1, 3, 3)] * 2).reshape(-1, 9)
    return len(np.unique(np.concatenate([distinct, turned]), axis=0)) == len(distinct) and np.ptp(counts) == 0


def _operation(triplet: str) -> tuple[tuple[int, ...], tuple[float, float, float]]:
    """Rotation (9 integers) and translation of one operation."""
    parts = re.sub(r"\s", "", triplet).lower().split(",")
    rotation, translation = np.zeros((3, 3), dtype=int), np.zeros(3)
    for row, part in enumerate(parts if len(parts) == 3 else ["", "", ""]):
        terms = list(_TERM.finditer(part))
        whole = "".join(term[0] for term in terms) == part and all(term[1] for term in terms[1:])
        for sign, value, axis in (term.groups() for term in terms if whole):
            if axis:
                rotation[row, "xyz".index(axis)] += -1 if sign == "-" else 1
            else:
                translation[row] += _fraction(value) * (-1 if sign == "-" else 1)
    if abs(round(np.linalg.det(rotation))) != 1 or np.abs(rotation).max() > 1:
        raise BadInput(f"the symmetry operation {triplet!r} does not parse; write it like '-x, y+1/2, -z', in quotes")
    return tuple(rotation.ravel().tolist()), tuple((translation % 1).tolist())


def _fraction(text: str) -> float:
    """0.3333 is a third: translations are simple fractions, which files round."""
    exact = Fraction(text)
    simple = exact.limit_denominator(24)
    return float(simple if abs(simple - exact) < Fraction(1, 1000) else exact)


def _tabulated(setting: Setting) -> Setting:
    """The tables' setting of the same operations; else the same with its number."""
    if known := _by_signature().get(setting.signature):
        return known
    try:
        found = spglib.get_spacegroup_type_from_symmetry(setting.rotations, setting.translations, symprec=1e-3)
    except SpglibError:  # raised or None returned, as whoever imported spglib has set it
        found = None
    return replace(setting, number=found.number if found else None)
