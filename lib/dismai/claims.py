"""The paper's claims (10.1039/D4DD00100A), each put so that a table of scores can tell: what should be less than what.

A claim that says nothing about alloys or the entrants that there are stands in the table, too, with the reason why it
cannot be tested here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from lib.core.stats import Rate, direction, independent_difference

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told at this size"
VERDICTS = {"less": HOLDS, "more": FAILS, "unresolved": OPEN}
DISTANCE = "distance"  # the data set's own distance of means
SCALE = {"energy": (1000, "meV/atom"), "off_site": (1, "Å"), DISTANCE: (1, "d_cluster")}  # all others are shares
TRAINED_ONCE = (
    "Entrants are trained once each: the intervals of the claims are those of their structures, and say nothing of "
    "what another training would give."
)


@dataclass(frozen=True)
class Claim:
    """Something that the paper says.

    Attributes:
        says: in a sentence.
        where: in the paper.
        pairs: names of two sets, of which the first should be less.
        measures: columns of :func:`lib.dismai.score.score` (or DISTANCE), of which less is better.
        untestable: why it cannot be tested here, where that is so.
    """

    says: str
    where: str
    pairs: Sequence[tuple[str, str]] = ()
    measures: Sequence[str] = (DISTANCE, "energy", "empty")
    untestable: str = ""


def _than(best: str, *others: str) -> list[tuple[str, str]]:
    return [(best, other) for other in others]


_LAMBDA = "lambda 0", "lambda 0.01", "lambda 0.05", "lambda 0.1"
_INTERFACES = "of interfaces, of which there is no data set here: the potential and the files are the authors'"
STUDY = (
    Claim(
        "A second critic, of weight 0.05, brings generated structures nearer and lowers their energies.",
        "Figure 7, S15",
        _than("lambda 0.05", "lambda 0"),
    ),
    Claim(
        "Up to 0.05, more weight is better.",
        "Figure 7, S15",
        [(more, less) for less, more in itertools.pairwise(_LAMBDA[:3])],
    ),
    Claim("Beyond 0.05, on interfaces, more weight is worse.", "Figure 7, S15", untestable=_INTERFACES),
    Claim("On alloys 0.1 is the best weight.", "S25", _than("lambda 0.1", *_LAMBDA[:3])),
    Claim("The second critic keeps atoms apart.", "S12", _than("lambda 0.1", "lambda 0"), ("close",)),
    Claim(
        "With it fewer structures come to nothing (34 and 11 % of the interfaces could not be relaxed).",
        "section 2.4.2",
        _than("lambda 0.05", "lambda 0"),
        ("failed",),
    ),
    Claim(
        "Two critics are better than one that is trained for the same time.",
        "S16",
        _than("lambda 0.1", "lambda 0, equal time"),
        (DISTANCE, "energy", "empty", "close"),
    ),
    Claim("Two critics are better than one that sees both.", "Figure 5", _than("lambda 0.1", "comb")),
    Claim("Mean pooling is better than the largest, or both.", "Figure 5", _than("lambda 0.1", "max", "mix")),
    Claim(
        "Two critics are better than one of graph convolutions, with which training diverged.",
        "S17",
        _than("lambda 0.1", "CGCNN critic"),
        (DISTANCE, "failed", "empty"),
    ),
    Claim(
        "Fewer generated than random structures have a high energy (15 and 52 % of the interfaces).",
        "Figure 8",
        _than("lambda 0.1", "uniform", "shuffled lattice"),
        ("costly",),
    ),
    Claim("The motifs of Sc are those of the training set.", "Table 4, Figure 9, S18, S19", untestable=_INTERFACES),
    Claim("The potential's minima are nearly those of DFT.", "Table 5, S6, S27", untestable=_INTERFACES),
)

BENCH = (
    Claim(
        "Graph networks outperform the diffusion models of coordinates.",
        "sections 2.3 and 3",
        _than("graph", "CrysTens", "UniMat"),
        (DISTANCE, "failed", "empty"),
    ),
    Claim(
        "DiffCSP's alloys are nearer to the training set than CryinGAN's.",
        "Table 3",
        _than("graph", "CryinGAN"),
        (DISTANCE,),
    ),
    Claim(
        "CryinGAN comes nearer to the fcc lattice than CrysTens and UniMat, which did not find it.",
        "Figure 4",
        _than("CryinGAN", "CrysTens", "UniMat"),
        ("failed", "empty"),
    ),
    Claim(
        "CrysTens and UniMat rely on atoms in sorted order (shown on interfaces).",
        "S20",
        [(name, f"{name}, shuffled order") for name in ("CrysTens", "UniMat")],
        ("empty", "failed"),
    ),
    Claim(
        "CrysTens, which sees distances, is better than UniMat (on interfaces).",
        "section 2.6",
        _than("CrysTens", "UniMat"),
    ),
    Claim(
        "Fewer of DiffCSP's than of CryinGAN's alloys have vacancies (92 to 96 and 100 %).",
        "Table 3",
        _than("graph", "CryinGAN"),
        ("vacancies",),
    ),
    Claim(
        "CDVAE turns lattices, its structures are nearly relaxed, and it learns elements badly.",
        "section 2.3, S2, S3, S5, S8",
        untestable="of CDVAE, which comes by files that its own code makes",
    ),
    Claim(
        "DiffCSP needs no denoising of the lattice, and no teacher forcing.",
        "S6, Table S1",
        untestable="of cells that are learned; here every structure has the data set's, and every entrant is told it",
    ),
)


def judged(claims: Sequence[Claim], scores: pd.DataFrame) -> pd.DataFrame:
    """A line a claim, pair and measure: the difference, the first less the second, with its interval, and a verdict.

    Args:
        scores: of :func:`lib.dismai.score.score` or :func:`lib.dismai.score.over_trainings`, one data set and state, a
            line an entrant. A claim of which no pair is there has one line, as one that is untestable.
    """
    rows = {line["entrant"]: line for line in scores.to_dict("records")}
    return pd.DataFrame([line for claim in claims for line in _lines(claim, rows)])


def _lines(claim: Claim, rows: dict[str, dict]) -> Iterator[dict]:
    about = {"claim": claim.says, "where": claim.where}
    there = [(a, b) for a, b in claim.pairs if a in rows and b in rows]
    if not there:
        reason = claim.untestable or "of entrants that this run does not have"
        yield about | {"verdict": f"cannot be tested: {reason}"}
    for (a, b), measure in itertools.product(there, claim.measures):
        both = _rate(rows[a], measure), _rate(rows[b], measure)
        difference = independent_difference(*both)
        yield about | {
            "less": a,
            "than": b,
            "measure": measure,
            "first": both[0].value,
            "second": both[1].value,
            "difference": difference.value,
            "low": difference.ci_low,
            "high": difference.ci_high,
            "verdict": VERDICTS[direction(difference)],
        }


def _rate(line: dict, measure: str) -> Rate:
    names = ("value", "low", "high") if measure == DISTANCE else (measure, f"{measure}_low", f"{measure}_high")
    value, low, high = (float(line.get(name, float("nan"))) for name in names)
    return Rate(value, low, high, int(line["n"]))


def sentences(lines: pd.DataFrame) -> list[str]:
    """A finding a claim of which some verdict is resolved: the tally of its verdicts, and what decided them; and one
    that counts the others, by the reason why they are open."""
    found, others = [], {}
    for says, several in lines.groupby("claim", sort=False):
        if not several.verdict.isin((HOLDS, FAILS)).any():
            others.setdefault(several.verdict.iloc[0], []).append(several["where"].iloc[0])
            continue
        tally = several.verdict.value_counts(sort=False)
        told = [verdict if len(tally) == 1 else f"{verdict} in {n} of {len(several)}" for verdict, n in tally.items()]
        resolved = several[several.verdict.isin((HOLDS, FAILS))]
        words = "; ".join([_begun(", ".join(told)), *map(_evidence, resolved.itertuples())])
        found.append(f"{says} ({several['where'].iloc[0]}) {words}.")
    counts = [f"{len(places)} {why} ({', '.join(dict.fromkeys(places))})" for why, places in others.items()]
    if counts:
        n = lines.claim.nunique()
        found.append(f"Claims of the paper that this run leaves open, of {n}: {'; '.join(counts)}. The table has each.")
    return found


def _begun(words: str) -> str:
    return words[:1].upper() + words[1:]


def _evidence(line) -> str:
    scale, unit = SCALE.get(line.measure, (100, "%"))
    name = "" if line.measure in (DISTANCE, "energy") else f" {line.measure}"
    return f"{line.less} {scale * line.first:.3g}, {line.than} {scale * line.second:.3g} {unit}{name}"
