"""Scores for anybody's structures.

    python -m lib.evaluate answers.zip --task csp --reference validation.parquet
    python -m lib.evaluate made/*.cif --task generation --reference train.parquet --out scores.csv

FILES are CIF, POSCAR or extended XYZ files, zip files of them, or folders. For `csp` each structure answers a crystal
of the reference table: the one of its id (the file's name without suffix, or `id` or `material_id` in extended XYZ), or
with `--key formula` those of its reduced formula. For `generation` the reference is what the generator was trained on.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Composition, Structure

from lib.conditions import reason_invalid
from lib.crystals import CrystalTable, atomic_volumes
from lib.matching import bootstrap_mean, match_many, match_rate
from lib.run import BadInput, progress, replacing
from lib.sources.files import STRUCTURE_FILE, parsed

XYZ = (".xyz", ".extxyz")
N_BOOTSTRAP = 1000


def read_structures(paths: Sequence[str | Path]) -> dict[str, Structure]:
    """Structures by name from files, zip files and folders, in order.

    Raises:
        BadInput: there are none, a file does not parse, or two structures have one name.
    """
    found: dict[str, Structure] = {}
    for path in map(Path, paths):
        for name, structure in progress(_read_any(path), desc=path.name, unit="structure"):
            if name in found:
                raise BadInput(f"{name} stands more than once in {path}; give each structure its own name")
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
    elif _known(path.name):
        yield from _read_text(path.name, path.read_text(errors="replace"))
    else:
        raise BadInput(f"{path} is no CIF, POSCAR, extended XYZ or zip file")


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
    for i, atoms in enumerate(frames):
        if not atoms.cell.rank == 3:
            raise BadInput(f"frame {i} of {name} has no cell; a crystal needs three cell vectors")
        label = atoms.info.get("id", atoms.info.get("material_id", f"{Path(name).stem}_{i}"))
        yield str(label), AseAtomsAdaptor.get_structure(atoms)


def _formulas(structures: Sequence[Structure]) -> list[str]:
    return [structure.composition.reduced_formula for structure in structures]


def answers_for(targets: CrystalTable, structures: Mapping[str, Structure], key: str = "id") -> list[Structure | None]:
    """The structure that answers each target; None where there is none.

    Args:
        key: "id": the structure of that name; "formula": the next unused one of its reduced formula.

    Raises:
        BadInput: no structure answers any target.
    """
    if key == "id":
        found = [structures.get(name) for name in targets.id.tolist()]
    else:
        queues = defaultdict(list)
        for structure, formula in zip(structures.values(), _formulas(list(structures.values())), strict=True):
            queues[formula].append(structure)
        found = [queues[f].pop(0) if queues[f] else None for f in targets.reduced_formula.tolist()]
    if not any(found):
        raise BadInput(
            f"none of the {len(structures)} structures has the {key} of a reference crystal; "
            f"names are like {next(iter(structures))!r}, reference ids like {targets.id[0]!r}"
        )
    return found


def crystal_structure_prediction(
    targets: CrystalTable, structures: Mapping[str, Structure], *, key: str = "id", **settings
) -> pd.DataFrame:
    """Match rates of one answer a target, and of METRe: targets that any answer of their formula matches.

    METRe ("match everyone to reference", Martirossyan et al., arXiv:2509.12178) does not punish a model that gives the
    polymorphs of a formula in another order. Targets without an answer count as not matched. The settings are those of
    :func:`lib.matching.match_many`.

    Returns:
        One line a score: score, value, ci_low, ci_high (95 %, bootstrapped over formulas) and n.
    """
    answers = answers_for(targets, structures, key)
    formulas = targets.reduced_formula
    of_formula = defaultdict(list)
    for structure, formula in zip(structures.values(), _formulas(list(structures.values())), strict=True):
        of_formula[formula].append(structure)
    pairs = [(i, candidate) for i, f in enumerate(formulas.tolist()) for candidate in of_formula[f]]
    references = list(targets.structures())
    first = match_many(references, answers, **settings)
    every = match_many([references[i] for i, _ in pairs], [candidate for _, candidate in pairs], **settings)
    place = np.array([i for i, _ in pairs], dtype=int)
    scores = {"answered": np.array([answer is not None for answer in answers])}
    for verdict in ("default", "csp", "strict"):
        scores[f"match, {verdict}"] = first[f"match_{verdict}"].to_numpy()
        scores[f"METRe, {verdict}"] = np.bincount(place, every[f"match_{verdict}"], len(targets)) > 0
    lines = [_line(name, hits, formulas) for name, hits in scores.items()]
    matched = first.match_csp.to_numpy()
    rmsd = bootstrap_mean(first.rms[matched], formulas[matched], n_bootstrap=N_BOOTSTRAP, rng=np.random.default_rng(0))
    return pd.DataFrame(
        [*lines, ("RMSD of csp matches", rmsd.value, rmsd.ci_low, rmsd.ci_high, rmsd.n)], columns=COLUMNS
    )


COLUMNS = ["score", "value", "ci_low", "ci_high", "n"]


def _line(name: str, hits: np.ndarray, formulas: np.ndarray) -> tuple:
    rate = match_rate(hits, formulas, n_bootstrap=N_BOOTSTRAP, rng=np.random.default_rng(0))
    return name, rate.value, rate.ci_low, rate.ci_high, rate.n


def generation(training: CrystalTable, structures: Mapping[str, Structure], **settings) -> pd.DataFrame:
    """Validity, uniqueness and novelty of generated structures, each a share of all of them.

    A structure is *valid* if its volume and its distances are those of crystals (volumes from the training set, see
    :func:`lib.conditions.reason_invalid`); *neutral* by :func:`is_neutral`; *unique* if no earlier one equals it,
    *novel* if none of the training set does (both by StructureMatcher at its default tolerances).

    Returns:
        As :func:`crystal_structure_prediction`.
    """
    given = list(structures.values())
    formulas = np.array(_formulas(given))
    volumes = atomic_volumes(training)
    valid = np.array([not reason_invalid(s, volumes) for s in given])
    neutral = {formula: is_neutral(formula) for formula in np.unique(formulas).tolist()}
    neutral = np.array([neutral[formula] for formula in formulas.tolist()])
    known = defaultdict(list)
    for i, formula in enumerate(training.reduced_formula.tolist()):
        known[formula].append(i)
    seen = _any_equal(given, [[training.structure(row) for row in known[f]] for f in formulas.tolist()], **settings)
    earlier = [[given[j] for j in range(i) if formulas[j] == formulas[i]] for i in range(len(given))]
    unique, novel = ~_any_equal(given, earlier, **settings), ~seen
    scores = {"valid": valid, "neutral": neutral, "unique": unique, "novel": novel}
    scores["valid, unique and novel"] = valid & unique & novel
    return pd.DataFrame([_line(name, hits, formulas) for name, hits in scores.items()], columns=COLUMNS)


def _any_equal(structures: list[Structure], others: list[list[Structure]], **settings) -> np.ndarray:
    """(n,) whether each structure matches one of its others."""
    pairs = [(i, other) for i, several in enumerate(others) for other in several]
    verdicts = match_many([other for _, other in pairs], [structures[i] for i, _ in pairs], **settings)
    place = np.array([i for i, _ in pairs], dtype=int)
    return np.bincount(place, verdicts.match_default.astype(float), len(structures)) > 0


def is_neutral(formula: str) -> bool:
    """Whether oxidation states that pymatgen knows add up to zero; alloys of metals count as neutral.

    The rule is SMACT's (Davies et al., 10.21105/joss.01361), the list of oxidation states is pymatgen's.
    """
    composition = Composition(formula)
    return all(element.is_metal for element in composition) or bool(composition.oxi_state_guesses(max_sites=-1))


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help="structure files, zip files or folders")
    parser.add_argument("--task", choices=["csp", "generation"], required=True)
    parser.add_argument(
        "--reference", required=True, help="a table that notebooks 01 and 02 write, such as validation.parquet"
    )
    parser.add_argument("--key", choices=["id", "formula"], default="id", help="what names the target (csp)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="csv file for the scores")
    given = parser.parse_args()
    try:
        table, structures = CrystalTable.from_parquet(given.reference), read_structures(given.files)
        if given.task == "csp":
            scores = crystal_structure_prediction(table, structures, key=given.key, n_workers=given.workers)
        else:
            scores = generation(table, structures, n_workers=given.workers)
        if given.out:
            with replacing(given.out) as temporary:
                scores.to_csv(temporary, index=False)
    except BadInput as error:
        sys.exit(f"\n{error}\n")
    print(scores.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
