"""The one door for structures from outside: text of any kind is parsed, checked against itself, and refused by name.

Every structure that enters comes through here: CIF, POSCAR, extended XYZ and pymatgen dictionaries. A sentence that
refuses begins with the name of what it refuses. Cells are left as the file has them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.crystals.cif import read_cif
from lib.crystals.structure_checks import WITH_ISOTOPES, check, element, number

MOST_LEFT_OUT = 0.01  # of the structures of a set; where more do not read, the set is not what it is taken for
SUFFIXES = {".cif": "cif", ".vasp": "poscar", ".xyz": "xyz", ".extxyz": "xyz"}
POSCAR_NAME = re.compile(r".*(poscar|contcar).*", re.IGNORECASE)
NO_POSCAR = re.compile(r".*\.(gz|bz2|xz|zst|zip|json|csv|txt|md|log|html|ya?ml|py|sh|png|svg|pdf)", re.IGNORECASE)
NOT_READ = re.compile(  # names of structures in forms that are not read
    r".*\.(mcif|cif2|xsf|xtl|pdb|mol2|traj)|.*(\.cif|\.vasp|\.xyz|\.extxyz|poscar|contcar).*\.(gz|bz2|xz|zst)"
    r"|.*(\.cif|\.vasp|\.xyz|\.extxyz)\.txt|.*\.(zip|tar|tgz|7z|rar)|.*\.tar\.\w+",
    re.IGNORECASE,
)
_POTENTIAL = re.compile(r"([A-Z][a-z]?)(?:_[A-Za-z_]\w*(?:\.\d+)?)?(?:/\w*)?")  # Ta, Ta_pv, Ta/, Ta_pv/8b3c91d
_PAIR = re.compile(  # key=value of extended XYZ, the value in double or single quotes, in brackets, or bare
    r"""([^\s="']+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|\{([^}]*)\}|(\[[^=]*\])(?=\s|$)|(\S+))"""
)


def kind_of(name: str) -> str | None:
    """What a file holds by its name: "cif", "poscar" or "xyz"; None for other files and for hidden ones."""
    if name.startswith("."):
        return None
    poscar = POSCAR_NAME.fullmatch(name) and not NO_POSCAR.fullmatch(name) and not NOT_READ.fullmatch(name)
    return SUFFIXES.get(Path(name).suffix.lower()) or ("poscar" if poscar else None)


def decoded(raw: bytes) -> str:
    """Text of UTF-8, of UTF-16 if it says so, else of Latin-1; line ends are made one kind."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = raw.decode("utf-16", errors="replace")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(
    text: str, kind: str, name: str, left_out: dict[str, str] | None = None
) -> list[tuple[str | None, Structure | None]]:
    """Every structure of a text, in order, with its own name where it has one: a data block's, a frame's id.

    Args:
        kind: "cif", "poscar", "xyz" or "dict", a pymatgen dictionary in JSON.
        name: what a refusal begins with.
        left_out: takes the sentence that refuses one of many frames, which is then None.

    Raises:
        BadInput: the text does not parse, or one of its structures is wrong or ambiguous.
    """
    reader = {"cif": read_cif, "poscar": _read_poscars, "xyz": _read_frames, "dict": _read_dict}[kind]
    try:
        found = reader(text)
        for i, (_, structure) in enumerate(found):
            if isinstance(structure, BadInput):
                if left_out is None or len(found) == 1:
                    raise structure
                left_out[f"{name} {i}"] = f"{name}: {structure}"
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error
    return [(label, None if isinstance(structure, BadInput) else structure) for label, structure in found]


def read_one(text: str, kind: str, name: str) -> Structure:
    """The only structure of a text (:func:`read_text`). Raises BadInput if there are several, or it does not read."""
    found = read_text(text, kind, name)
    if len(found) > 1:
        others = ", ".join(label or str(i + 1) for i, (label, _) in enumerate(found) if i)
        raise BadInput(f"{name}: it holds {len(found)} structures where one belongs; put {others} in a file of its own")
    return found[0][1]


def enough(left_out: Mapping[str, str], n: int) -> None:
    """Nothing, if of a set of n structures few enough do not read (name -> the sentence that refuses it). Raises
    BadInput if more than one in a hundred do not; it says which, and why."""
    if len(left_out) > MOST_LEFT_OUT * n:
        raise BadInput(told(left_out, n))


def told(left_out: Mapping[str, str], n: int) -> str:
    """What was left out of n structures, and why: a line each, the first 20."""
    lines = list(left_out.values())
    if len(lines) == 1:
        return lines[0] + (f" (1 of {n} structures)" if n > 1 else "")
    hidden = [f"and {len(lines) - 20} more"] if len(lines) > 20 else []
    return "\n".join([f"of {n} structures {len(lines)} cannot be used; correct or remove them:", *lines[:20], *hidden])


def _crystal(lattice: np.ndarray, species: list[int], frac_coords: np.ndarray) -> Structure:
    check(lattice, species, frac_coords)
    return Structure(Lattice(lattice), species, frac_coords)


def _read_poscars(text: str) -> list[tuple[str | None, Structure]]:
    """The POSCARs that follow each other; velocities and predictor coordinates of the last are passed over."""
    lines, found = text.split("\n"), []
    if sum(line.strip().lower().startswith("direct configuration") for line in lines) > 1:
        raise BadInput("it holds the steps of a trajectory (XDATCAR); write the one that is meant as POSCAR")
    while lines and (not found or any(line.strip() for line in lines)):
        try:
            structure, used = _read_poscar(lines)
        except BadInput as error:
            raise BadInput(f"POSCAR {len(found) + 1} in it: {error}") if found else error from error
        found.append((None, structure))
        lines = lines[used:]
        if not _begins_poscar(lines):
            lines = lines[1:] if lines and not lines[0].strip() else lines
            start = next((i for i in range(len(lines)) if _begins_poscar(lines[i:])), len(lines))
            if start == len(lines):
                break
            lines = lines[start:]
    return found


def _begins_poscar(lines: list[str]) -> bool:
    """Whether a title, a scale, three vectors and the elements or their numbers stand first."""
    if not lines or lines[0].strip().lower().startswith("lattice velocities"):
        return False
    shape = [len(line.split()) for line in lines[1:5]] == [1, 3, 3, 3]
    return shape and all(map(_floats, lines[1:5])) and len(lines) > 5 and re.match(r"\s*[A-Za-z\d]+\b(?!\.)", lines[5])


def _floats(line: str) -> list[float]:
    try:
        return [number(word, "") for word in line.split()]
    except BadInput:
        return []


def _read_poscar(lines: list[str]) -> tuple[Structure, int]:
    """The first crystal and how many lines it takes."""
    if len(lines) < 8:
        raise BadInput("it does not parse as POSCAR (less than eight lines); correct it")
    scale = [number(word, "the scale") for word in _before_comment(lines[1])]
    if len(scale) != 1 or scale[0] == 0:
        raise BadInput(f"the scale {lines[1].strip()!r} is not one number other than 0; multiply the vectors by it")
    lattice = np.array([_three(lines[i], "the cell vector") for i in (2, 3, 4)])
    volume = abs(np.linalg.det(lattice))
    factor = scale[0] if scale[0] > 0 else (-scale[0] / volume) ** (1 / 3) if volume else 1.0
    lattice, at = factor * lattice, 5
    words = _before_comment(lines[at])
    symbols = None if all(word.isdecimal() for word in words) else [_potential(word) for word in words]
    at += symbols is not None
    words = _before_comment(lines[at])
    if strange := [word for word in words if not word.isdecimal()]:
        raise BadInput(f"{strange[0]!r} is no number of atoms; under the elements write how many of each there are")
    counts = [int(word) for word in words]
    if symbols is not None and len(symbols) != len(counts):
        raise BadInput(f"it names {len(symbols)} elements but {len(counts)} numbers of atoms; correct one of the lines")
    at += 1
    selective = lines[at].strip().lower().startswith("s")
    at += selective
    mode = lines[at].strip().lower()[:1] if at < len(lines) else ""
    if mode not in ("d", "f", "c", "k"):
        raise BadInput(f"line {at + 1} {lines[at].strip() if mode else ''!r} says neither Direct nor Cartesian; add it")
    rows = lines[at + 1 : at + 1 + sum(counts)]
    if len(rows) < sum(counts):
        raise BadInput(f"it has {len(rows)} lines of atoms, not {sum(counts)}; correct it")
    coords = np.array([_three(row, "the atom") for row in rows]).reshape(-1, 3)
    behind = [_symbol_behind(row, selective) for row in rows]
    if symbols is None:
        if not all(behind):
            raise BadInput("the line of element symbols is missing; write it above the numbers of atoms")
        species = [element(word) for word in behind]
    else:
        species = [z for z, n in zip(symbols, counts, strict=True) for _ in range(n)]
        for i, (word, z) in enumerate(zip(behind, species, strict=True)):
            if word and element(word) != z:
                raise BadInput(f"atom {i + 1} is named {word} but the line of elements says otherwise; correct one")
    after = lines[at + 1 + sum(counts)] if len(lines) > at + 1 + sum(counts) else ""
    if len(_floats(after)) >= 3:
        raise BadInput(f"more lines of atoms follow than the {sum(counts)} that it counts, such as {after.strip()!r}")
    frac_coords = coords @ np.linalg.inv(lattice) * factor if mode in "ck" and volume else coords
    return _crystal(lattice, species, frac_coords), at + 1 + sum(counts)


def _symbol_behind(row: str, selective: bool) -> str | None:
    """The element at the end of a line of coordinates, if one stands there; T and F are flags of selective dynamics."""
    words = row.split()[3:]
    words = words[3:] if selective or (len(words) >= 3 and set(words[:3]) <= {"T", "F"}) else words
    found = re.fullmatch(r"([A-Z][a-z]?)\d*", words[0]) if words else None  # Cl, Cl1; T is a flag
    return found[1] if found and found[1] in WITH_ISOTOPES and words[0] != "T" else None


def _before_comment(line: str) -> list[str]:
    return re.split("[!#]", line)[0].split()


def _three(line: str, what: str) -> list[float]:
    words = line.split()[:3]
    if len(words) < 3:
        raise BadInput(f"{what} {line.strip()!r} has no three numbers; correct it")
    return [number(word, f"in {what} {line.strip()!r}") for word in words]


def _potential(word: str) -> int:
    """Atomic number by the name of a potential, such as Ta_pv; H.5 and H1.25 are no atoms of a crystal."""
    found = _POTENTIAL.fullmatch(word)
    return element(found[1] if found else word, "in the line of elements an atom")


def _read_frames(text: str) -> list[tuple[str | None, Structure | BadInput]]:
    """The frames of an extended XYZ text by their `id` or `material_id`, or what refuses one."""
    lines, found, at = text.split("\n"), [], 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        words = f"frame {len(found)}"
        if not lines[at].strip().isdecimal():
            raise BadInput(f"{words} begins with {lines[at].strip()[:40]!r}, not with a number of atoms; correct it")
        n = int(lines[at])
        rows = lines[at + 2 : at + 2 + n]
        if n == 0 or len(rows) < n or not all(row.strip() for row in rows):
            raise BadInput(f"{words} has {sum(bool(row.strip()) for row in rows)} lines of atoms where it says {n}")
        try:
            found.append(_frame(lines[at + 1], rows))
        except BadInput as error:  # the next one may be sound
            found.append((None, BadInput(f"{words}: {error}")))
        at += 2 + n
    if not found:
        raise BadInput("it has no frames of extended XYZ")
    return found


def _frame(comment: str, rows: list[str]) -> tuple[str | None, Structure]:
    about: dict[str, str] = {}
    for key, *values in _PAIR.findall(comment):
        value = next((value for value in values if value), "")
        value = re.sub(r"\\(.)", r"\1", value)
        if about.setdefault(key.lower(), value) != value and key.lower() in ("lattice", "pbc", "properties"):
            raise BadInput(f"its {key} stands twice; keep one")
    if "lattice" not in about:
        raise BadInput('it has no cell; a crystal needs three vectors, as Lattice="..."')
    lattice = [number(word, "in its Lattice") for word in re.split(r"[\s,\[\]]+", about["lattice"]) if word]
    if len(lattice) != 9:
        raise BadInput(f"its Lattice has {len(lattice)} numbers, not nine")
    if mixed := re.search(r"\{[^{}]*,[^{}]*\}", about.get("occupancy", "")):  # as ASE writes of a CIF
        raise BadInput(f"it has a site of occupancy {mixed[0]}; give an ordered cell")
    periodic = re.sub(r"[^TF10]", "", about.get("pbc", "T T T").upper().replace("TRUE", "T").replace("FALSE", "F"))
    if not re.fullmatch("[T1]{3}", periodic):
        raise BadInput(f"it is not periodic in three directions (pbc {' '.join(periodic)}); a crystal is")
    places, at = {}, 0
    properties = about.get("properties", "species:S:1:pos:R:3").split(":")
    for name, _, width in zip(properties[::3], properties[1::3], properties[2::3], strict=False):
        if name.lower() == "pos" and width != "3":
            raise BadInput(f"its Properties give pos {width} columns; a place in a crystal takes 3")
        places[name.lower()] = at
        at += int(width) if width.isdecimal() else 0
    kinds = [name for name in ("species", "z", "numbers", "symbols", "element") if name in places]
    if not kinds or "pos" not in places:
        raise BadInput(f"its Properties {':'.join(properties)} name no species or no pos")
    species, coords, shares = [], [], []
    for row in rows:
        words = row.split()
        if len(words) < max(at, 4):
            raise BadInput(f"the line {row.strip()!r} has {len(words)} columns, not the {max(at, 4)} of Properties")
        named = {kind: words[places[kind]] for kind in kinds}
        word, *_ = named.values()
        found = {int(w) if k in ("z", "numbers") and w.isdecimal() else element(w) for k, w in named.items()}
        if len(found) > 1:
            raise BadInput(f"the line {row.strip()!r} names two elements, {' and '.join(named.values())}; correct one")
        species += found
        shares += [words[at] for name, at in places.items() if name.startswith("occupanc")]
        coords.append([number(w, f"in the position of {word}") for w in words[places["pos"] : places["pos"] + 3]])
    partly = next((share for share in shares if number(share, "its occupancy") != 1), None)
    if partly is not None:
        raise BadInput(f"it has a site of occupancy {partly}; give an ordered cell")
    matrix = np.array(lattice).reshape(3, 3)
    if np.linalg.det(matrix) == 0:
        raise BadInput("its Lattice is flat; a crystal needs three cell vectors in three directions")
    label = about.get("id") or about.get("material_id") or None
    return label, _crystal(matrix, species, np.array(coords) @ np.linalg.inv(matrix))


def _read_dict(text: str) -> list[tuple[str | None, Structure]]:
    """A structure that pymatgen wrote as JSON; oxidation states and properties of sites are left behind."""
    try:
        whole: Mapping = json.loads(text)
        matrix = np.array(whole["lattice"]["matrix"], dtype=float)
        sites = [(site["species"], site["abc"]) for site in whole["sites"]]
        species = [[(kind["element"], float(kind["occu"])) for kind in kinds] for kinds, _ in sites]
        frac_coords = np.array([abc for _, abc in sites], dtype=float)
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"it is no pymatgen Structure ({type(error).__name__}: {reason}); correct it") from error
    if not np.all(whole["lattice"].get("pbc", True)):
        raise BadInput("its lattice is not periodic in three directions; a crystal is")
    for i, kinds in enumerate(species):
        if len(kinds) != 1 or abs(kinds[0][1] - 1) > 1e-6:
            shares = ", ".join(f"{symbol} {share:g}" for symbol, share in kinds)
            raise BadInput(f"it has partly occupied sites: site {i + 1} holds {shares}; give an ordered cell")
    if matrix.shape != (3, 3):
        raise BadInput(f"its cell {matrix.tolist()} is not three vectors; correct it")
    numbers = [element(re.sub(r"[\d.]*[+-]$", "", str(kinds[0][0]))) for kinds in species]
    return [(None, _crystal(matrix, numbers, frac_coords))]
