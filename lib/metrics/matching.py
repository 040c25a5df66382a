"""pymatgen's StructureMatcher over many pairs; match rates, differences and RMSD (paper section 3.4).

Three verdicts a pair:

- `default`: `StructureMatcher()` and its `fit`, the paper's metric (ltol 0.2, stol 0.3, angle_tol 5);
- `csp`: ltol 0.3, stol 0.5, angle_tol 10 and a finite `get_rms_dist`, as crystal structure prediction counts a match
  since CDVAE (arXiv:2110.06197); RMSD comes from here;
- `strict`: `fit` at the default tolerances without rescaling the volume, volumes per atom within 5 %, and the same
  space group. The two others rescale every pair to one volume, take B2 with c/a = 1.2 for B2 and merge many distinct
  superstructures of fcc and bcc; this one tells most apart. Both groups are for symprec 0.1 Å: at 0.01 Å a structure
  fresh from a model is P1, whatever it was meant to be, and one tolerance for both sides lets equal structures be
  equal. An enantiomorph counts as another group.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import pickle
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pymatgen.core import Structure

from lib.core.stats import cells, claim, mean, paired_difference, share
from lib.core.workers import progress, spread
from lib.crystals.table import CrystalTable
from lib.crystals.validity import NO_STRUCTURE, flaw, shortest_vector
from lib.metrics.overlay import Cell, Overlay, Tolerances, primitive_cell, reduced_cell
from lib.symmetry.cells import LOOSE_SYMPREC

if TYPE_CHECKING:
    import pandas as pd

READING = (  # of a rate table, for those who see nothing but it
    "Columns: default, csp and strict are StructureMatcher's default tolerances (0.2, 0.3, 5°), those of crystal "
    "structure prediction (0.3, 0.5, 10°), and the default's with volume and space group right; rmsd is of csp "
    "matches, in units of (V/n)^(1/3); invalid counts answers that are no crystal. Rows: paper is the paper's "
    "64 x 3 matrix and UNet, transformer the orbits of the asked space group; CFM is flow matching, from normal "
    "N(0,1) or uniform U(0,1) noise; the others need no training"
)
VERDICTS = ["match_default", "match_csp", "match_strict"]
OUTCOME = [*VERDICTS, "rms", "rms_angstrom", "note"]
RATES = ["default", "csp", "strict", "rmsd", "rmsd_angstrom"]
MAX_VOLUME_RATIO = 1.05
TIMEOUT_SECONDS = 20.0  # of processor time for a pair
DEFAULT = Tolerances(lengths=0.2, sites=0.3, angles=5)
CSP = Tolerances(lengths=0.3, sites=0.5, angles=10)

SUBSTITUTION = "substitution, asked group"  # the row that says where there is a template

N_KEPT = 64  # targets whose cells and groups a worker keeps
Packed = tuple[bytes, bytes, bytes]


class _TimeUp(BaseException):
    """Not an Exception, so that nothing inside the matcher swallows it."""


def match_many(
    targets: Iterable[Structure],
    candidates: Iterable[Structure | None],
    *,
    n_workers: int = 2,
    timeout_seconds: float = TIMEOUT_SECONDS,
    resume: Path | None = None,
) -> pd.DataFrame:
    """Compare candidate i with target i, many in `n_workers` processes, with a progress bar; equal pairs only once.

    The answers are those of plain pymatgen calls with (candidate, target) in this order: the number of lattice
    mappings to try is then bounded by the target's cell, however odd the candidate's. Pairs of the same target should
    stand next to each other: workers keep their reduced cells.

    Args:
        candidates: one structure a target; None, non-finite, tiny or overlapping ones count as no match, with a note.
        timeout_seconds: of processor time for a pair; verdicts not reached by then count as no match, with a note.
        resume: file that takes each verdict as it comes and gives back those of an interrupted call.

    Returns:
        One row a pair: match_default, match_csp, match_strict (bool), rms (normalised by (V/n)^(1/3), nan without a
        csp match), rms_angstrom (the same in Å at the target's volume), note (empty for an ordinary comparison).
    """
    import pandas as pd

    pairs = [(_pack(c), _pack(t)) for c, t in zip(candidates, targets, strict=True)]
    keys = [hashlib.sha256(pickle.dumps((pair, timeout_seconds))).hexdigest() for pair in pairs]
    verdicts = _read_verdicts(resume)
    missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in verdicts}
    if missing:
        chunk = min(32, math.ceil(len(missing) / (4 * n_workers)))
        compare_pair = functools.partial(_compare_packed, timeout_seconds=timeout_seconds)
        if resume:
            resume.parent.mkdir(parents=True, exist_ok=True)
        workers = spread(n_workers, len(missing), chunk)
        with workers as mapped, resume.open("a") if resume else nullcontext() as file:
            found = mapped(compare_pair, missing.values())
            found = progress(found, total=len(missing), desc="matching", unit="pair")
            for key, verdict in zip(missing, found, strict=True):
                verdicts[key] = verdict
                if file:
                    print(json.dumps([key, verdict]), file=file, flush=True)
    return pd.DataFrame([verdicts[key] for key in keys], columns=OUTCOME)


def _read_verdicts(path: Path | None) -> dict[str, dict[str, object]]:
    if path is None or not path.exists():
        return {}
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]  # the last line may be cut short
    path.write_text(whole)
    return dict(json.loads(line) for line in whole.splitlines())


def match_rows(targets: CrystalTable, rows: Mapping[str, Sequence[Structure | None]], **settings) -> pd.DataFrame:
    """Compare every row's candidates with the same targets; the settings are those of :func:`match_many`.

    Returns its columns, and before them `row`, `target` (id), `formula`, `n_sites` and `space_group` of the target;
    rows in the order given, targets in theirs.
    """
    import pandas as pd

    names = list(rows)
    repeated = [structure for structure in targets.structures() for _ in names]
    frame = match_many(repeated, itertools.chain(*zip(*rows.values(), strict=True)), **settings)
    about = {"target": targets.id, "formula": targets.formula, "n_sites": targets.n_sites}
    about = pd.DataFrame(about | {"space_group": targets.space_group}).loc[np.repeat(range(len(targets)), len(names))]
    about.insert(0, "row", names * len(targets))
    frame = pd.concat([about.reset_index(drop=True), frame], axis=1)
    return frame.iloc[np.argsort(np.tile(range(len(names)), len(targets)), kind="stable")].reset_index(drop=True)


def _pack(structure: Structure | None) -> Packed | None:
    """What a worker needs of a structure; pickling arrays takes a tenth of the time of pickling Structures."""
    if structure is None:
        return None
    arrays = structure.lattice.matrix, np.array(structure.atomic_numbers, np.uint8), structure.frac_coords
    return tuple(array.tobytes() for array in arrays)


def _unpack(packed: Packed | None) -> Structure | None:
    if packed is None:
        return None
    lattice, species, frac_coords = packed
    return Structure(np.frombuffer(lattice).reshape(3, 3), list(species), np.frombuffer(frac_coords).reshape(-1, 3))


class _Target:
    """A reference structure and what comparisons with it need, each found when it is first asked for."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure

    @functools.cached_property
    def cell(self) -> Cell:
        return reduced_cell(self.structure)

    @functools.cached_property
    def space_group(self) -> int:
        return self.structure.get_space_group_info(LOOSE_SYMPREC)[1]


@functools.lru_cache(N_KEPT)
def _target(packed: Packed) -> _Target:
    return _Target(_unpack(packed))


def compare(
    candidate: Structure | None, target: Structure, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, object]:
    """One row of :func:`match_many`; call it from the main thread, since the time-out is a signal."""
    return _compare(candidate, _Target(target), timeout_seconds)


def _compare_packed(pair: tuple[Packed | None, Packed], timeout_seconds: float) -> dict[str, object]:
    return _compare(_unpack(pair[0]), _target(pair[1]), timeout_seconds)


def _compare(candidate: Structure | None, target: _Target, timeout_seconds: float) -> dict[str, object]:
    verdict = dict.fromkeys(VERDICTS, False) | {"rms": math.nan, "rms_angstrom": math.nan, "note": ""}
    try:
        with _time_limit(timeout_seconds):
            _fill(verdict, candidate, target)
    except _TimeUp:
        verdict["note"] = f"no answer in {timeout_seconds:g} s"
    except Exception as error:  # pymatgen raises many kinds for odd cells; one pair must not end the others
        verdict["note"] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return verdict


def _fill(verdict: dict[str, object], candidate: Structure | None, target: _Target) -> None:
    """Write the verdicts as they are reached, so that a time-out keeps the earlier ones.

    CSP comes first, since without it there is no default or strict match either: a default match is found on a lattice
    and a translation that CSP tries, too, with all atoms within 0.3 after the best shift. One of them was not displaced
    before, so that the shift is at most 0.3; the root mean square before it, which the assignment of atoms minimises,
    is then at most 0.3 sqrt(2) = 0.42 < 0.5. A strict match differs from a default one by 1.05^(1/3) in the lengths,
    at most, which leaves them within CSP's tolerance.
    """
    reference = target.structure
    verdict["note"] = flaw(candidate)
    if verdict["note"] or candidate.composition.reduced_composition != reference.composition.reduced_composition:
        return
    if _too_flat(candidate, reference):
        return
    overlay = Overlay(primitive_cell(candidate), target.cell, CSP)
    rms = overlay.least_rms()
    if rms is None:
        return
    verdict["match_csp"] = True
    verdict["rms"] = rms
    verdict["rms_angstrom"] = rms * (reference.volume / len(reference)) ** (1 / 3)
    verdict["match_default"] = overlay.fits(DEFAULT)
    volumes = sorted([candidate.volume / len(candidate), reference.volume / len(reference)])
    verdict["match_strict"] = (
        volumes[1] <= MAX_VOLUME_RATIO * volumes[0]
        and overlay.fits(DEFAULT, at_one_volume=False)
        and candidate.get_space_group_info(LOOSE_SYMPREC)[1] == target.space_group
    )


def _too_flat(candidate: Structure, target: Structure) -> bool:
    """Whether the candidate's lattice has a vector too short for any mapping onto the target's.

    For plates and needles pymatgen lists millions of lattice points and can run out of memory. A match needs a
    basis whose lengths are at most (1 + ltol) those of the target's reduced primitive cell, and no vector of a lattice
    is shorter than the smallest distance of its lattice planes: at least V / (l_1 l_2) with the two longest lengths.
    Both cells are taken at one volume per atom. Most candidates pass the bound of the target's cell as given, which
    saves finding its primitive cell.
    """
    scale = (target.volume / len(target) / candidate.volume * len(candidate)) ** (1 / 3)
    shortest = scale * shortest_vector(candidate)
    if shortest >= _shortest_to_match(target):
        return False
    return shortest < _shortest_to_match(target.get_reduced_structure().get_primitive_structure())


def _shortest_to_match(target: Structure) -> float:
    _, middle, longest = sorted(target.lattice.get_lll_reduced_lattice().abc)
    return target.volume / (middle * longest * (1 + CSP.lengths) ** 2)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the block after `seconds` of this process, and again every second in case C code dropped the first.

    Processor time, so that a busy machine or more processes give no other answers.
    """

    def stop(*_) -> None:
        raise _TimeUp

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def compare_rows(verdicts: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Row `a` of :func:`match_rows` against row `b`, on the same targets, a line a verdict: a, b, verdict, difference,
    ci_low, ci_high, n and the sentence of :func:`lib.core.stats.claim`."""
    import pandas as pd

    left, right = verdicts[verdicts.row == a], verdicts[verdicts.row == b]
    lines = []
    for name in VERDICTS:
        rate = paired_difference(left[name], right[name], left.formula)
        line = {"a": a, "b": b, "verdict": name.removeprefix("match_")}
        lines.append(line | vars(rate) | {"claim": claim(rate, a, b)})
    return pd.DataFrame(lines).rename(columns={"value": "difference"})


def compare_pairs(verdicts: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """:func:`compare_rows` of each pair of rows that are both there."""
    import pandas as pd

    there = set(verdicts.row)
    lines = [compare_rows(verdicts, a, b) for a, b in pairs if {a, b} <= there]
    return pd.concat(lines, ignore_index=True) if lines else pd.DataFrame(columns=["a", "b", "verdict"])


def without_template(verdicts: pd.DataFrame) -> dict[str, np.ndarray]:
    """Ids of the targets for which there is little to look up, as is known before any answer.

    - "no template": no training structure has the target's counts per cell and its space group;
    - "template of another group": of these, those whose counts a training structure has in another space group.

    Targets on which a lookup turned out wrong are no such subset: on them it is worse than anything by construction.
    The verdicts must have the rows "substitution" and SUBSTITUTION.
    """
    lookups = [verdicts[verdicts.row == row].drop_duplicates("target") for row in (SUBSTITUTION, "substitution")]
    none, nowhere = (set(lookup.target[lookup.note == NO_STRUCTURE]) for lookup in lookups)
    names = {"no template": none, "template of another group": none - nowhere}
    return {name: lookups[0].target[lookups[0].target.isin(ids)].to_numpy() for name, ids in names.items()}


def strongest(rates: pd.DataFrame, rows: Iterable[str]) -> str:
    """Of these rows of a :func:`rate_table` the one that matches most often: of baselines the one to compare with."""
    return rates[rates.row.isin(list(rows))].set_index("row").default.idxmax()


def rate_table(
    verdicts: pd.DataFrame, by: Sequence[str], *, subsets: Mapping[str, np.ndarray] | None = None
) -> pd.DataFrame:
    """Match rates and RMSD by columns of :func:`match_rows`: `row`, `n_sites`, `space_group`, or several of them.

    Targets of the `subsets`, name -> ids (:func:`without_template`), are counted once more by themselves.

    Returns:
        One line a value, in order of appearance: the columns, n, and for each of RATES (match rates; rmsd, normalised,
        and rmsd_angstrom are means over csp matches) the value, `<name>_low` and `<name>_high`; `invalid`, the
        number of pairs with a note; last `n, <subset>` and, at CSP tolerances, `csp, <subset>` with its interval.
    """
    import pandas as pd

    lines = []
    for values, group in verdicts.groupby(list(by), sort=False):
        matched = group[group.match_csp]
        rates = [share(group[name], group.formula) for name in VERDICTS]
        rates += [mean(matched[name], matched.formula) for name in ("rms", "rms_angstrom")]
        line: dict[str, object] = dict(zip(by, values, strict=True)) | {"n": len(group)}
        line |= cells(dict(zip(RATES, rates, strict=True))) | {"invalid": int((group.note != "").sum())}
        for name, ids in (subsets or {}).items():
            part = group[group.target.isin(ids)]
            line |= {f"n, {name}": len(part)} | cells({f"csp, {name}": share(part.match_csp, part.formula)})
        lines.append(line)
    return pd.DataFrame(lines)


def rates_of_subsets(verdicts: pd.DataFrame, subsets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """:func:`rate_table` by row over some of the targets at a time: name -> ids, in a first column `targets`."""
    import pandas as pd

    tables = {name: rate_table(verdicts[verdicts.target.isin(ids)], ["row"]) for name, ids in subsets.items()}
    return pd.concat(tables, names=["targets"]).reset_index("targets").reset_index(drop=True)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table with each number and its interval (x, x_low, x_high) in one column of text, "0.415 (0.36 to 0.47)"."""

    def in_words(value: float, low: float, high: float) -> str:
        if math.isnan(value):
            return ""
        return f"{value:.3f}" if math.isnan(low) else f"{value:.3f} ({low:.2f} to {high:.2f})"

    for name in [name for name in table.columns if f"{name}_low" in table.columns]:
        ends = [f"{name}_low", f"{name}_high"]
        text = [in_words(*numbers) for numbers in table[[name, *ends]].to_numpy(float)]
        table = table.drop(columns=ends).assign(**{name: text})
    return table
