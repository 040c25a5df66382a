"""Files of structures from and for other programs.

Read: CIF, POSCAR, extended XYZ, zip files and folders of them, and csv files with a structure a row. Written: what the
evaluators of MatterGen (Zeni et al., 10.1038/s41586-025-08628-5; `mattergen-evaluate --structures_path`: an extended
XYZ file of many frames, or a zip file of CIFs without folders) and of LeMat-GenBench (`run_benchmarks.py --csv` or
`--cifs`: a csv with a pymatgen dictionary a row in the column `structure`, or a folder of CIFs) read.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import pandas as pd
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.files import replacing, writing
from lib.core.workers import progress
from lib.crystals.structure_io import NOT_READ, SUFFIXES, decoded, kind_of, read_text, told

MOST_BYTES = 200_000_000  # that a text of a zip file may unpack to; a cell of a million atoms takes less
CSV_IDS = ("id", "material_id")
CSV_STRUCTURES = ("structure", "LeMatStructs", "cif_string", "cif")


def read_structures(paths: Sequence[str | Path], left_out: dict[str, str] | None = None) -> dict[str, Structure]:
    """Structures by name from files, zip files and folders, in order.

    The name is the file's without suffix, or its folder's where it is called POSCAR or CONTCAR; in extended XYZ `id` or
    `material_id`, in csv the column of that name, else the file's name and the number of the frame or row. Of a CIF
    of several data blocks and of POSCARs in one file it is the file's and the block's name or the number.

    Args:
        left_out: takes the sentence that refuses a structure under its name, and the others are read; unless it is
            given, the first sentence ends the reading.

    Raises:
        BadInput: there are none, a file cannot be opened, two structures have one name (unless they are one crystal in
            two formats), or one does not read.
    """
    found: dict[str, Structure] = {}
    kinds: dict[str, str | None] = {}
    for path in map(Path, paths):
        for text in progress(_texts(path), desc=path.name, unit="text"):
            try:
                several = text.read(left_out)
            except BadInput as error:
                if left_out is None:
                    raise
                left_out[text.where] = str(error)
                continue
            for name, structure in several:
                if structure is None:  # left out, as its sentence says
                    continue
                if name in found:
                    if kinds[name] != text.kind and same_crystal(found[name], structure):
                        continue  # lib.generate writes each, as CIF and among all in extended XYZ
                    raise BadInput(f"{name} stands more than once in {path}; give each structure its own name")
                found[name], kinds[name] = structure, text.kind
    if not found and left_out:
        raise BadInput(told(left_out, len(left_out)))
    if not found:
        raise BadInput(f"no CIF, POSCAR or extended XYZ file in {', '.join(map(str, paths))}")
    return found


def same_crystal(one: Structure, other: Structure) -> bool:
    """Whether two structures are one crystal to the digits of a file, whatever cell it is written in."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=0.002, stol=0.002, angle_tol=0.1, scale=False).fit(one, other)


@dataclass(frozen=True)
class _Text:
    """A text that holds structures."""

    name: str  # of its structures, without suffix
    kind: str | None  # as lib.crystals.structure_io.read_text knows it; None where such files are not read
    where: str  # what a refusal begins with
    content: str | bytes  # the text or its bytes; the reason where it is not read

    @classmethod
    def of_file(cls, path: PurePath, content: bytes, above: str) -> _Text:
        """Text of a file at a path, which may be one inside a zip file; `above` names what has no name of its own."""
        stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
        if path.name.upper() in ("POSCAR", "CONTCAR"):
            stem = path.parent.name or above
        return cls(stem, kind_of(path.name), path.name, content)

    def read(self, left_out: dict[str, str] | None) -> list[tuple[str, Structure | None]]:
        """Its structures by name; None for a frame whose refusal `left_out` has taken. Raises BadInput if one does not
        read."""
        if self.kind is None:
            raise BadInput(self.content or f"{self.where} is no CIF, POSCAR, extended XYZ, csv or zip; write it so")
        text = self.content if isinstance(self.content, str) else decoded(self.content)
        found = read_text(text, self.kind, self.where, left_out)
        if self.kind == "xyz":
            return [(label or f"{self.name}_{i}", structure) for i, (label, structure) in enumerate(found)]
        if len(found) == 1:
            return [(self.name, found[0][1])]
        return [(f"{self.name}_{label or i}", structure) for i, (label, structure) in enumerate(found)]


def _texts(path: Path) -> Iterator[_Text]:
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            if inner.name.startswith(".") or inner.name == "__MACOSX":
                continue
            if kind_of(inner.name) and not inner.exists():
                yield _Text(inner.name, None, inner.name, f"{inner.name} is a link to nothing; remove or mend it")
            elif inner.is_dir() or inner.suffix.lower() == ".zip" or kind_of(inner.name):
                yield from _texts(inner)
            elif NOT_READ.fullmatch(inner.name):
                yield _Text(inner.name, None, inner.name, b"")
    elif not path.is_file():
        raise BadInput(f"{path} does not exist; give structure files, zip files or folders")
    elif path.suffix.lower() == ".zip":
        yield from _in_zip(path)
    elif path.suffix.lower() == ".csv":  # only where it is named: folders of CIFs often hold a csv of something else
        yield from _in_csv(path.name, path.read_bytes())
    else:
        content = path.read_bytes() if kind_of(path.name) else b""
        yield _Text.of_file(path.absolute(), content, path.absolute().parent.name)


def _in_zip(path: Path) -> Iterator[_Text]:
    """Texts of a zip file, csv files of structures among them; what a Mac puts beside each file is passed over."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                inner = PurePath(entry.filename.replace("\\", "/"))  # some programs of Windows write it so
                if entry.is_dir() or inner.name.startswith(".") or "__MACOSX" in inner.parts:
                    continue
                if inner.suffix.lower() == ".zip":
                    raise BadInput(f"{inner.name} is a zip file in the zip file {path.name}; unpack it first")
                is_csv = inner.suffix.lower() == ".csv"
                if not (is_csv or kind_of(inner.name) or NOT_READ.fullmatch(inner.name)):
                    continue
                if entry.file_size > MOST_BYTES:
                    size = f"{entry.file_size / 1e6:.0f} MB"
                    raise BadInput(f"{inner.name} in {path.name} unpacks to {size}; no structure is that large")
                try:
                    content = archive.read(entry)
                except (zipfile.BadZipFile, zlib.error, EOFError) as error:  # the others may be whole
                    reason = f"{inner.name} in {path.name} is damaged ({error}); get it again"
                    yield _Text(inner.name, None, inner.name, reason)
                    continue
                if not is_csv:
                    yield _Text.of_file(inner, content, path.stem)
                    continue
                try:
                    yield from _in_csv(inner.name, content)
                except BadInput as error:
                    yield _Text(inner.name, None, inner.name, str(error))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise BadInput(f"{path} is no whole zip file that opens without a password ({error}); get it again") from error


def _in_csv(file: str, content: bytes) -> Iterator[_Text]:
    try:
        frame = pd.read_csv(io.StringIO(decoded(content)), dtype=str, keep_default_na=False)
    except ValueError as error:
        raise BadInput(f"{file} does not read as csv ({str(error).splitlines()[0]})") from error
    column = next((name for name in CSV_STRUCTURES if name in frame), None)
    if column is None:
        raise BadInput(f"{file} has no column {', '.join(CSV_STRUCTURES[:-1])} or {CSV_STRUCTURES[-1]}; name it so")
    if f"{column}.1" in frame:
        raise BadInput(f"{file} has the column {column} twice; keep one")
    if not len(frame):
        raise BadInput(f"{file} has no rows; give structures")
    label = next((name for name in CSV_IDS if name in frame), None)
    names = frame[label] if label else [f"{Path(file).stem}_{i}" for i in range(len(frame))]
    for name, text in zip(names, frame[column], strict=True):
        yield _Text(name, "dict" if text.lstrip().startswith("{") else "cif", f"{name} of {file}", text)


def export(structures: Mapping[str, Structure], evaluator: str, out: Path) -> Path:
    """Write structures as "mattergen" (`.extxyz` or `.zip`) or "lemat" (`.csv` or a new folder of CIFs) reads them.
    Raises BadInput if the evaluator reads no such file, a name cannot be a file's, or the folder exists."""
    if evaluator not in WRITERS:
        raise BadInput(f"no evaluator {evaluator!r} is known; choose one of {', '.join(WRITERS)}")
    suffix = out.suffix.lower()
    if suffix not in WRITERS[evaluator]:
        kinds = " or ".join(kind or "a folder" for kind in WRITERS[evaluator])
        raise BadInput(f"{evaluator} does not read {out.name}; it reads {kinds}")
    if suffix == "" and out.exists():
        raise BadInput(f"{out} exists, and its files would be scored, too; choose a new folder")
    WRITERS[evaluator][suffix](structures, out)
    return out


def write_extxyz(structures: Iterable[Structure], facts: Iterable[Mapping[str, object]], path: Path) -> None:
    """Structures as frames of extended XYZ, each with facts in its comment; an empty file where there are none."""
    import ase.io
    from pymatgen.io.ase import AseAtomsAdaptor

    frames = []
    for structure, about in zip(structures, facts, strict=True):
        frames.append(AseAtomsAdaptor.get_atoms(structure, msonable=False))
        frames[-1].info = dict(about)
    with replacing(path) as temporary:
        temporary.touch()
        if frames:
            ase.io.write(temporary, frames, format="extxyz")


def _write_xyz(structures: Mapping[str, Structure], path: Path) -> None:
    write_extxyz(structures.values(), ({"id": name} for name in structures), path)


def write_answers(rows: Mapping[str, Mapping[str, Structure]], path: Path) -> Path:
    """A zip file with the structures of each row in an extended XYZ file of its own, each structure under its id."""
    with (
        tempfile.TemporaryDirectory() as folder,
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for row, structures in rows.items():
            file = Path(folder) / f"{row}.extxyz"
            _write_xyz(structures, file)
            archive.write(file, file.name)
    return path


def _write_zip(structures: Mapping[str, Structure], path: Path) -> None:
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _cifs(structures).items():
            archive.writestr(name, text)


def _write_csv(structures: Mapping[str, Structure], path: Path) -> None:
    rows = [(name, json.dumps(structure.as_dict())) for name, structure in structures.items()]
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=["material_id", "structure"]).to_csv(temporary, index=False)


def _write_folder(structures: Mapping[str, Structure], path: Path) -> None:
    with writing(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        whole = Path(temporary) / path.name  # not the temporary folder itself, which only its owner may read
        whole.mkdir()
        for name, text in _cifs(structures).items():
            (whole / name).write_text(text)
        whole.rename(path)


WRITERS = {
    "mattergen": {".extxyz": _write_xyz, ".xyz": _write_xyz, ".zip": _write_zip},
    "lemat": {".csv": _write_csv, "": _write_folder},
}


def _cifs(structures: Mapping[str, Structure]) -> dict[str, str]:
    """CIF texts by name of file."""
    for name in structures:
        if Path(name).name != name or name.startswith("."):
            raise BadInput(f"structure {name!r} cannot name a file; give it another id, or write extended XYZ or csv")
    return {f"{name}.cif": structure.to(fmt="cif") for name, structure in structures.items()}
