"""Files of structures from and for other programs.

Read: CIF, POSCAR, extended XYZ, zip files and folders of them, and csv files with a structure a row. Written: what the
evaluators of MatterGen (Zeni et al., 10.1038/s41586-025-08628-5; `mattergen-evaluate --structures_path`: an extended
XYZ file of many frames, or a zip file of CIFs without folders) and of LeMat-GenBench (`run_benchmarks.py --csv` or
`--cifs`: a csv with a pymatgen dictionary a row in the column `structure`, or a folder of CIFs) read.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from pymatgen.core import Structure

from lib.run import BadInput, progress, replacing
from lib.sources.files import STRUCTURE_FILE, parsed

XYZ = (".xyz", ".extxyz")
XYZ_ID = re.compile(r'(?:^|\s)(?:id|material_id)=(?:"((?:[^"\\]|\\.)*)"|(\S+))')
CSV_IDS = ("id", "material_id")
CSV_STRUCTURES = ("structure", "LeMatStructs", "cif_string", "cif")


def read_structures(paths: Sequence[str | Path]) -> dict[str, Structure]:
    """Structures by name from files, zip files and folders, in order.

    The name is the file's without suffix; in extended XYZ `id` or `material_id`, in csv the column of that name, else
    the file's name and the number of the frame or row.

    Raises:
        BadInput: there are none, a file does not parse, two structures have one name, or one is disordered.
    """
    found: dict[str, Structure] = {}
    for path in map(Path, paths):
        for name, structure in progress(_read_any(path), desc=path.name, unit="structure"):
            if name in found:
                raise BadInput(f"{name} stands more than once in {path}; give each structure its own name")
            if not structure.is_ordered:
                raise BadInput(f"structure {name} of {path} has partly occupied sites; give an ordered cell")
            found[name] = structure
    if not found:
        raise BadInput(f"no CIF, POSCAR or extended XYZ file in {', '.join(map(str, paths))}")
    return found


def _read_any(path: Path) -> Iterator[tuple[str, Structure]]:
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            if inner.is_dir() or _known(inner.name):
                yield from _read_any(inner)
    elif not path.is_file():
        raise BadInput(f"{path} does not exist; give structure files, zip files or folders")
    elif path.suffix.lower() == ".zip":
        yield from _read_zip(path)
    elif path.suffix.lower() == ".csv":  # only where it is named: folders of CIFs often hold a csv of something else
        yield from _read_csv(path)
    elif _known(path.name):
        yield from _read_text(path.name, path.read_text(errors="replace"))
    else:
        raise BadInput(f"{path} is no CIF, POSCAR, extended XYZ, csv or zip file")


def _read_zip(path: Path) -> Iterator[tuple[str, Structure]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.namelist()):
                if _known(Path(entry).name):
                    yield from _read_text(Path(entry).name, archive.read(entry).decode(errors="replace"))
    except zipfile.BadZipFile as error:
        raise BadInput(f"{path} is no whole zip file ({error}); get it again") from error


def _known(name: str) -> bool:
    return name.lower().endswith((*XYZ, ".zip")) or STRUCTURE_FILE.fullmatch(name) is not None


def _read_csv(path: Path) -> Iterator[tuple[str, Structure]]:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} does not read as csv ({str(error).splitlines()[0]})") from error
    column = next((name for name in CSV_STRUCTURES if name in frame), None)
    if column is None:
        raise BadInput(f"{path} has no column {', '.join(CSV_STRUCTURES[:-1])} or {CSV_STRUCTURES[-1]}; name it so")
    label = next((name for name in CSV_IDS if name in frame), None)
    names = frame[label] if label else [f"{path.stem}_{i}" for i in range(len(frame))]
    for name, text in zip(names, frame[column], strict=True):
        if not text.lstrip().startswith("{"):
            yield name, parsed(text, "cif", f"{name} of {path.name}")
            continue
        try:
            yield name, Structure.from_dict(json.loads(text))
        except Exception as error:  # from_dict raises whatever the dictionary made it trip over
            raise BadInput(f"{name} of {path.name} is no pymatgen Structure ({error}); correct or remove it") from error


def _read_text(name: str, text: str) -> Iterator[tuple[str, Structure]]:
    if not name.lower().endswith(XYZ):
        stem, fmt = (name[:-4], "cif") if name.lower().endswith(".cif") else (name.removesuffix(".vasp"), "poscar")
        yield stem, parsed(text, fmt, name)
        return
    import ase.io
    from pymatgen.io.ase import AseAtomsAdaptor

    try:
        frames = ase.io.read(io.StringIO(text), index=":", format="extxyz")
    except Exception as error:  # ase's reader raises whatever the text made it trip over
        raise BadInput(f"{name} does not parse as extended XYZ ({error}); correct or remove it") from error
    for i, (atoms, label) in enumerate(zip(frames, _xyz_ids(text), strict=True)):
        if not atoms.cell.rank == 3:
            raise BadInput(f"frame {i} of {name} has no cell; a crystal needs three cell vectors")
        yield label or f"{Path(name).stem}_{i}", AseAtomsAdaptor.get_structure(atoms)


def _xyz_ids(text: str) -> Iterator[str]:
    """The id of each frame as it is written: ase makes numbers and truth values of 1e5, 007 and F."""
    lines, at = text.splitlines(), 0
    while at < len(lines) and lines[at].strip():
        found = XYZ_ID.search(lines[at + 1])
        quoted, bare = found.groups() if found else (None, "")
        yield bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at += int(lines[at]) + 2


# ------------------------------------------------------------------------------------------------------- written


def export(structures: Mapping[str, Structure], evaluator: str, out: Path) -> Path:
    """Write structures as "mattergen" (`.extxyz` or `.zip`) or "lemat" (`.csv` or a new folder of CIFs) reads them.

    Raises:
        BadInput: the evaluator reads no such file, a name cannot be a file's, or the folder exists.
    """
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


def _write_xyz(structures: Mapping[str, Structure], path: Path) -> None:
    import ase.io
    from pymatgen.io.ase import AseAtomsAdaptor

    frames = []
    for name, structure in structures.items():
        frames.append(AseAtomsAdaptor.get_atoms(structure, msonable=False))
        frames[-1].info = {"id": name}
    with replacing(path) as temporary:
        ase.io.write(temporary, frames, format="extxyz")


def _write_zip(structures: Mapping[str, Structure], path: Path) -> None:
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, structure in structures.items():
            archive.writestr(f"{_as_file_name(name)}.cif", structure.to(fmt="cif"))


def _write_csv(structures: Mapping[str, Structure], path: Path) -> None:
    rows = [(name, json.dumps(structure.as_dict())) for name, structure in structures.items()]
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=["material_id", "structure"]).to_csv(temporary, index=False)


def _write_folder(structures: Mapping[str, Structure], path: Path) -> None:
    texts = {f"{_as_file_name(name)}.cif": structure.to(fmt="cif") for name, structure in structures.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        whole = Path(temporary) / path.name  # not the temporary folder itself, which only its owner may read
        whole.mkdir()
        for name, text in texts.items():
            (whole / name).write_text(text)
        whole.rename(path)


WRITERS = {
    "mattergen": {".extxyz": _write_xyz, ".xyz": _write_xyz, ".zip": _write_zip},
    "lemat": {".csv": _write_csv, "": _write_folder},
}


def _as_file_name(name: str) -> str:
    if Path(name).name != name or name.startswith("."):
        raise BadInput(f"structure {name!r} cannot name a file; give it another id, or write extended XYZ or csv")
    return name
