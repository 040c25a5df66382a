"""Scores for anybody's structures.

    python -m lib.evaluate answers.zip --task csp --reference test.parquet --training train.parquet
    python -m lib.evaluate made/*.cif --task generation --reference train.parquet --potential chgnet --relax \\
        --hull crystals.parquet --out scores.csv
    python -m lib.evaluate made/ --export mattergen made.extxyz

FILES are CIF, POSCAR, extended XYZ or csv files, zip files of them, or folders. A structure that contradicts itself is
left out; the last lines name each with the reason, and the exit status is 1. For --task csp each structure answers
a crystal of the reference table: the one of its id (the file's name without suffix, or id or material_id in extended
XYZ and csv), or with --key formula those of its reduced formula; --training puts substitution from that table beside
the answers. For --task generation the reference is what the generator was trained on; --potential adds energies
above the hull, and with them S.U.N. (stable, unique and novel). For --task coverage the reference is a test set, of
which CDVAE's COV-P, COV-R and the Fréchet distance of fingerprints are told.
"""

import argparse
import hashlib
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Composition, Structure
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lib.core.commands import Help, command, whole
from lib.core.errors import BadInput
from lib.core.files import ROOT, replacing
from lib.core.stats import Rate, mean, share
from lib.crystals.elements import SYMBOLS
from lib.crystals.exchange import WRITERS, export, read_structures
from lib.crystals.structure_io import told
from lib.crystals.table import CrystalTable, atomic_volumes
from lib.crystals.validity import MIN_DISTANCE_AFTER, reason_invalid
from lib.metrics import matching
from lib.metrics.coverage import Fingerprints, covered, frechet_distance
from lib.metrics.stability import NOT_JUDGED, SAYS, Stability, judge
from lib.retrieval.templates import ElementRanking

UNKNOWN = "the reference has no"  # how the reason of a structure begins of which nothing is known
FOR_TASKS = {"key": ["csp"], "training": ["csp"], **dict.fromkeys(("potential", "relax", "hull"), ["generation"])}
NEAR_HULL = 0.1  # eV/atom; MatterGen calls a structure stable up to here, LeMat-GenBench metastable


def _by_formula(structures: Mapping[str, Structure]) -> dict[str, list[Structure]]:
    found = defaultdict(list)
    for structure in structures.values():
        found[structure.composition.reduced_formula].append(structure)
    return found


def answers_for(targets: CrystalTable, structures: Mapping[str, Structure], key: str = "id") -> list[Structure | None]:
    """The structure that answers each target, by the key "id" that of its name, by "formula" the next unused one of its
    reduced formula; None where there is none. Raises BadInput if no structure answers any target."""
    if key == "id":
        found = [structures.get(name) for name in targets.id.tolist()]
    else:
        queues = _by_formula(structures)
        found = [queues[f].pop(0) if queues[f] else None for f in targets.reduced_formula.tolist()]
    if not len(targets):
        raise BadInput("the reference holds no crystal; give one that has the targets")
    if not any(found):
        names = list(structures) if key == "id" else list(queues)
        raise BadInput(
            f"none of the {len(structures)} structures has the {key} of a reference crystal; theirs is like "
            f"{names[0]!r}, the reference's like {str((targets.id if key == 'id' else targets.reduced_formula)[0])!r}"
        )
    return found


def crystal_structure_prediction(
    targets: CrystalTable, structures: Mapping[str, Structure], *, key: str = "id", **settings
) -> pd.DataFrame:
    """Match rates of one answer a target, and of METRe: targets that any answer of their formula matches.

    METRe ("match everyone to reference", Martirossyan et al., arXiv:2509.12178) does not punish a model that gives the
    polymorphs of a formula in another order. cRMSE, from there as well, is the mean distance of a target from the
    nearest of these answers (normalised by (V/n)^(1/3)), and the tolerance, 0.5, where none matches at CSP tolerances.
    Targets without an answer count as not matched. The settings are those of :func:`lib.metrics.matching.match_many`.
    A line a score has score, value, ci_low, ci_high (95 %) and n.
    """
    answers = answers_for(targets, structures, key)
    formulas, references, of_formula = targets.reduced_formula, list(targets.structures()), _by_formula(structures)
    first = matching.match_many(references, answers, **settings)
    pairs = [(i, candidate) for i, formula in enumerate(formulas.tolist()) for candidate in of_formula[formula]]
    every = matching.match_many([references[i] for i, _ in pairs], [candidate for _, candidate in pairs], **settings)
    place = np.array([i for i, _ in pairs], dtype=int)
    scores = {"answered": np.array([answer is not None for answer in answers])}
    for verdict in ("default", "csp", "strict"):
        scores[f"match, {verdict}"] = first[f"match_{verdict}"].to_numpy()
        scores[f"METRe, {verdict}"] = np.bincount(place, every[f"match_{verdict}"], len(targets)) > 0
    rates = {name: share(hits, formulas) for name, hits in scores.items()}
    nearest, hits = np.full(len(targets), matching.CSP.sites), every.match_csp.to_numpy(bool)
    np.minimum.at(nearest, place[hits], every.rms.to_numpy()[hits])
    rates["cRMSE, csp"] = mean(nearest, formulas)
    matched = first.match_csp.to_numpy()
    return _scores(rates | {"RMSD of csp matches": mean(first.rms[matched], formulas[matched])})


def _scores(rates: Mapping[str, Rate]) -> pd.DataFrame:
    return pd.DataFrame([{"score": name} | vars(rate) for name, rate in rates.items()])


def beside_substitution(
    targets: CrystalTable, structures: Mapping[str, Structure], training: CrystalTable, *, key: str = "id", **settings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The answers beside substitution from a training set, with the target's group asked for and without.

    Of several templates of the same elements substitution takes that of the target's energy, which the answers may not
    have known.

    Returns:
        :func:`lib.metrics.matching.rate_table` of all targets and of :func:`lib.metrics.matching.without_template`; and
        answers less each substitution on all targets (:func:`lib.metrics.matching.compare_rows`).
    """
    nearest = ElementRanking(training)
    lookups = {"substitution": False, matching.SUBSTITUTION: True}
    rows = {name: nearest.substitution(targets, use_space_group=group) for name, group in lookups.items()}
    verdicts = matching.match_rows(targets, {"answers": answers_for(targets, structures, key)} | rows, **settings)
    subsets = {"all": targets.id} | matching.without_template(verdicts)
    rates = matching.rates_of_subsets(verdicts, {name: ids for name, ids in subsets.items() if len(ids)})
    claims = [matching.compare_rows(verdicts, "answers", other) for other in lookups]
    return rates, pd.concat(claims, ignore_index=True)


def coverage(
    reference: CrystalTable,
    structures: Sequence[Structure | None],
    known: Fingerprints | None = None,
    n_workers: int = 2,
) -> dict[str, Rate]:
    """COV-P, COV-R and the Fréchet distance of CrystalNN's fingerprints, which has no interval
    (:mod:`lib.metrics.coverage`).

    Args:
        structures: None counts as covered by nothing.
        known: the fingerprints of the reference, where several are compared with it.
    """
    known = known or Fingerprints.of(list(reference.structures()), n_workers, "reference")
    made = Fingerprints.of(structures, n_workers)
    formulas = [f"none, {i}" if s is None else s.composition.reduced_formula for i, s in enumerate(structures)]
    distance = frechet_distance(made.structure, known.structure)
    return {
        "COV-P": share(covered(made, known), np.array(formulas)),
        "COV-R": share(covered(known, made), reference.reduced_formula),
        "Fréchet distance, CrystalNN": Rate(distance, np.nan, np.nan, int(made.known.sum())),
    }


def generation(
    training: CrystalTable,
    structures: Mapping[str, Structure],
    *,
    potential: str | None = None,
    hull: CrystalTable | None = None,
    relax: bool = False,
    finished: Path | None = None,
    **settings,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Validity, uniqueness, novelty and, by a potential, stability of generated structures: shares of all of them.

    A structure is *valid* if its volume and its distances are those of crystals (volumes from the training set, see
    :func:`lib.crystals.validity.reason_invalid`); *neutral* by :func:`is_neutral`; *unique* if it is valid and the one
    that stands for all valid ones equal to it, whatever their order: the lowest where there are energies; *novel* if
    none of the training set equals it (both by StructureMatcher at its default tolerances). Of a structure with an
    element that the training set lacks nothing is known: it is named, and in no share. With a potential the valid ones
    are judged by :func:`lib.metrics.stability.judge`: *stable* or *unstable* where the 95 % interval of their distance
    lies below or above the hull, else *unresolved*, and *not judged* if invalid or without an energy. Beside that stand
    the counts usual in the literature, which take the potential at its word: S.U.N. up to 0 and up to 0.1 eV/atom above
    the hull.

    Args:
        hull: crystals that the hull is made of; the training set unless given.
        relax: relax the valid structures first; whether they are valid, unique and novel is asked of what comes out.
        finished: folder for what an interrupted call takes up again.
        settings: of :func:`lib.metrics.matching.match_many`.

    Returns:
        Scores as :func:`crystal_structure_prediction`, the last line the potential's error (eV/atom), its resolution;
        and one line a structure: id, formula, reason ("" where valid; begins with UNKNOWN where nothing is known),
        neutral, unique, novel and, with a potential, formation_energy, energy_above_hull (eV/atom), competitors,
        failure and says.
    """
    given = list(structures.values())
    volumes = atomic_volumes(training)
    unknown = _unknown_elements(given, training)
    reasons = [strange or reason_invalid(s, volumes) for strange, s in zip(unknown, given, strict=True)]
    stability = None
    if potential:
        how = {"relax": relax, "n_workers": settings.get("n_workers", 2), "finished": finished}
        judged = [None if reason else s for s, reason in zip(given, reasons, strict=True)]
        stability = judge(judged, hull or training, potential, rng=np.random.default_rng(0), **how)
        given = [after or before for after, before in zip(stability.structures, given, strict=True)]
        if relax:
            after = [reason_invalid(s, volumes, MIN_DISTANCE_AFTER) for s in given]
            reasons = [before or now for before, now in zip(reasons, after, strict=True)]
    formulas = [structure.composition.reduced_formula for structure in given]
    known = defaultdict(list)
    for i, formula in enumerate(training.reduced_formula.tolist()):
        known[formula].append(i)
    alike = [(i, row) for i, formula in enumerate(formulas) for row in known[formula]]
    equal = matching.match_many([training.structure(row) for _, row in alike], [given[i] for i, _ in alike], **settings)
    details = pd.DataFrame({"id": list(structures), "formula": formulas, "reason": reasons})
    details["neutral"] = details.formula.map({formula: is_neutral(formula) for formula in set(formulas)})
    energies = stability.judged.energy_above_hull.to_numpy() if stability else np.full(len(given), np.nan)
    details["unique"] = _one_of_each(given, np.array(reasons) == "", energies, **settings)
    seen = {i for (i, _), same in zip(alike, equal.match_default, strict=True) if same}
    details["novel"] = ~details.index.isin(seen)
    if stability:
        details = pd.concat([details, stability.judged], axis=1)
        details.loc[details.reason != "", "says"] = NOT_JUDGED
    return generation_scores(details, stability), details


def generation_scores(details: pd.DataFrame, stability: Stability | None = None) -> pd.DataFrame:
    """The scores of :func:`generation` from its details."""
    details = details[~details.reason.str.startswith(UNKNOWN)]
    valid = details.reason == ""
    new = valid & details.unique & details.novel
    scores = {"valid": valid, "neutral": details.neutral, "unique": details.unique, "novel": details.novel}
    scores["valid, unique and novel"] = new
    if stability:
        scores |= {word: details.says == word for word in (*SAYS.values(), NOT_JUDGED)}
        for word in ("stable", "unresolved"):
            scores[f"{word}, unique and novel"] = (details.says == word) & new
        for most in (0, NEAR_HULL):
            scores[f"S.U.N. up to {most:g} eV/atom, unresolved or not"] = (details.energy_above_hull <= most) & new
    rates = {name: share(hits.to_numpy(), details.formula.to_numpy()) for name, hits in scores.items()}
    return _scores(
        rates | ({f"error of {stability.source} (eV/atom)": stability.resolution.error} if stability else {})
    )


def _one_of_each(structures: list[Structure], valid: np.ndarray, energies: np.ndarray, **settings) -> np.ndarray:
    """(n,) which valid structure stands for those that equal it, directly or through others: the first by energy, then
    by volume. So neither the structures' order nor what is invalid matters."""
    size = [(round(s.volume / len(s), 6), len(s)) for s in structures]
    order = sorted(np.flatnonzero(valid), key=lambda i: (np.nan_to_num(energies[i], nan=np.inf), *size[i]))
    formulas = [structure.composition.reduced_formula for structure in structures]
    pairs = [(i, j) for n, j in enumerate(order) for i in order[:n] if formulas[i] == formulas[j]]
    one, other = ([structures[pair[k]] for pair in pairs] for k in (0, 1))
    same = matching.match_many(one, other, **settings).match_default
    equal = np.array(pairs, dtype=int).reshape(-1, 2)[same.to_numpy(bool)].T
    _, kinds = connected_components(coo_array((np.ones(equal.shape[1]), equal), shape=(len(structures),) * 2))
    _, first = np.unique(kinds[order], return_index=True)
    return np.isin(np.arange(len(structures)), np.array(order, dtype=int)[first])


def _unknown_elements(structures: Sequence[Structure], training: CrystalTable) -> list[str]:
    """Of each structure UNKNOWN and its elements that no training crystal has; "" where it has none such. Raises
    BadInput if all structures have some."""
    held = set(SYMBOLS[np.unique(training.species)])
    lacking = [sorted({e.symbol for e in s.composition} - held) for s in structures]
    if lacking and all(lacking):
        missing = sorted({symbol for symbols in lacking for symbol in symbols})
        raise BadInput(
            f"every structure has elements of which the reference has no crystal ({', '.join(missing)}), so it cannot "
            "say which are valid or new; give a reference that has them"
        )
    return [f"{UNKNOWN} {', '.join(symbols)}" if symbols else "" for symbols in lacking]


def is_neutral(formula: str) -> bool:
    """Whether oxidation states that pymatgen knows add up to zero; alloys of metals count as neutral.

    The rule is SMACT's (Davies et al., 10.21105/joss.01361), the list of oxidation states is pymatgen's.
    """
    composition = Composition(formula)
    return all(element.is_metal for element in composition) or bool(composition.oxi_state_guesses(max_sites=-1))


@command()
def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m lib.evaluate", description=__doc__, formatter_class=Help)
    parser.add_argument("files", nargs="+", help="structure files, zip files or folders")
    parser.add_argument("--task", choices=["csp", "generation", "coverage"], help="what was asked of the structures")
    parser.add_argument("--reference", help="a table that notebooks 01 and 02 write, such as test.parquet")
    parser.add_argument("--key", choices=["id", "formula"], default="id", help="what names the target (csp)")
    parser.add_argument("--training", help="table whose crystals are the templates of substitution (csp)")
    parser.add_argument("--potential", help="judge stability by it, such as chgnet (generation)")
    parser.add_argument("--relax", action="store_true", help="relax with the potential first")
    parser.add_argument("--hull", help="table of the crystals of the hull, such as crystals.parquet; else --reference")
    parser.add_argument("--workers", type=whole(1), default=2, help="processes that compare and relax")
    parser.add_argument("--out", type=Path, help="csv file for the scores; further tables go beside it")
    words = "write what that evaluator reads: mattergen .extxyz or .zip, lemat .csv or a new folder"
    parser.add_argument("--export", nargs=2, metavar=("|".join(WRITERS), "OUT"), help=words)
    given = parser.parse_args()
    if not (given.export or (given.task and given.reference)):
        parser.error("give --task and --reference, or --export")
    for name, tasks in FOR_TASKS.items():
        if getattr(given, name) != parser.get_default(name) and given.task not in tasks:
            parser.error(f"--{name} is for --task {' and '.join(tasks)}; leave it out")
    if (given.relax or given.hull) and not given.potential:
        parser.error("--relax and --hull are of stability, which a potential judges; give --potential, such as chgnet")
    left_out: dict[str, str] = {}
    structures = read_structures(given.files, left_out)
    if given.export:
        print(f"{len(structures)} structures in {export(structures, given.export[0], Path(given.export[1]))}")
    if given.task:
        _score(given, structures)
    if left_out:  # the others are done; the exit status and the last lines say what is not
        raise BadInput(told(left_out, len(structures) + len(left_out)))


def _score(given: argparse.Namespace, structures: Mapping[str, Structure]) -> None:
    """Score, print and write; what takes long is kept until then, and found again by the same call."""
    table = CrystalTable.from_parquet(given.reference)
    asked = "|".join(map(str, (sorted(structures), given.task, given.reference, given.potential, given.relax)))
    work = ROOT / "outputs" / f".resume_evaluate_{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
    settings = {"n_workers": given.workers, "resume": work / "verdicts.jsonl"}
    tables, notes = {}, []
    if given.task == "csp":
        tables[""] = crystal_structure_prediction(table, structures, key=given.key, **settings)
        if given.training:
            training = CrystalTable.from_parquet(given.training)
            tables["_subsets"], tables["_against_substitution"] = beside_substitution(
                table, structures, training, key=given.key, **settings
            )
            notes += tables["_against_substitution"].claim.tolist()
            shared = np.isin(table.reduced_formula, training.reduced_formula)
            if shared.any():
                notes.append(f"{shared.sum()} of {len(table)} targets have a formula that the training table has, too")
    elif given.task == "coverage":
        tables[""] = _scores(coverage(table, list(structures.values()), n_workers=given.workers))
    else:
        hull = CrystalTable.from_parquet(given.hull) if given.hull else None
        by = {"potential": given.potential, "hull": hull, "relax": given.relax, "finished": work}
        tables[""], tables["_structures"] = generation(table, structures, **by, **settings)
        details = tables["_structures"]
        unknown = details.reason.str.startswith(UNKNOWN)
        counted = details.formula[~unknown]
        if counted.nunique() < len(counted):
            notes.append(
                f"{len(counted)} structures of {counted.nunique()} formulas: those of one formula count as one case in "
                "the 95 % intervals"
            )
        if unknown.any():
            few = ", ".join(details.id[unknown][:5])
            words = f"{unknown.sum()} of {len(structures)} have elements that the reference lacks ({few}): in no share"
            notes.append(words)
        if given.potential:
            counts = details.says.value_counts()
            counts = ", ".join(f"{counts.get(word, 0)} {word}" for word in (*SAYS.values(), NOT_JUDGED))
            error = tables[""].iloc[-1]
            size = f"{error.value:.3f} ({error.ci_low:.3f} to {error.ci_high:.3f})"
            notes.append(f"{counts} of {len(structures)}, given the {error.score}: {size}")
            alone = ((details.says != NOT_JUDGED) & (details.competitors == 0)).sum()
            if alone:
                notes.append(f"{alone} of them compete with the elements alone: the hull has no compound there")
    for suffix, frame in tables.items():
        if given.out:
            with replacing(given.out.with_name(f"{given.out.stem}{suffix}{given.out.suffix}")) as temporary:
                frame.to_csv(temporary, index=False)
        if suffix != "_structures":
            shown = matching.readable(frame) if suffix == "_subsets" else frame.drop(columns="claim", errors="ignore")
            print(shown.to_string(index=False, float_format="{:.3f}".format), end="\n\n")
    print(*notes, sep="\n")
    shutil.rmtree(work, ignore_errors=True)
