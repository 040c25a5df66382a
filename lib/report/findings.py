"""What a run found, in sentences made from its tables; :meth:`lib.core.run.Run.finding` keeps them for the report.

Intervals are 95 %, and a difference whose interval contains 0 is called unresolved. A function returns None where there
is nothing to speak of.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from lib.core import published
from lib.core.stats import Rate, direction, points


def data(steps: pd.DataFrame) -> str | None:
    """What :func:`lib.datasets.polymorphs.funnel` left, and which of its filters took most."""
    if steps.empty or not steps.structures.iloc[0]:
        return None
    first, last, lost = steps.iloc[0], steps.iloc[-1], -steps.structures.diff().fillna(0)
    most = f"; most are lost to “{steps.step[lost.idxmax()]}” ({lost.max():,.0f})" if lost.max() else ""
    return (
        f"Data: of {first.structures:,} structures in {first.groups:,} polymorph groups the filters of section 2.1 "
        f"leave {last.structures:,} in {last.groups:,}{most}."
    )


def splits(proofs: Mapping[str, pd.DataFrame]) -> str | None:
    """Whether sets share a reduced formula; names of two sets -> their :func:`lib.datasets.splits.split_proof`."""
    shared = {names: int(proof.set_index("quantity").shared["reduced formulas"]) for names, proof in proofs.items()}
    bad = [f"{names} ({n})" for names, n in shared.items() if n]
    if bad:
        return f"Sets that share reduced formulas, so that rates are too high: {'; '.join(bad)}."
    return "Training, validation and test crystals share no reduced formula." if shared else None


def differences(lines: pd.DataFrame, verdict: str = "default") -> dict[str, Rate]:
    """Differences in match rate by "a less b", from lines of :func:`lib.metrics.matching.compare_rows`."""
    chosen = lines[lines.verdict == verdict].itertuples()
    return {f"{x.a} less {x.b}": Rate(x.difference, x.ci_low, x.ci_high, int(x.n)) for x in chosen}


def claim(question: str, found: Mapping[str, Rate]) -> str | None:
    """Whether a claim of the paper, put as a question, holds in each difference of shares that tests it, by name and
    positive where the claim is right."""
    says = {"more": "holds", "less": "contradicted", "unresolved": "unresolved"}
    verdicts = {name: says[direction(rate)] for name, rate in found.items() if rate.n}
    tally = ", ".join(f"{word} in {n} of {len(verdicts)}" for word, n in Counter(verdicts.values()).items())
    parts = [f"{name}: {word}, {points(found[name])}" for name, word in verdicts.items()]
    return f"{question} {tally.capitalize()}. {'; '.join(parts)}." if parts else None


def best_row(table: int, rates: pd.DataFrame, best: str, chosen: str, found: Mapping[str, Rate]) -> str | None:
    """How often the best row of Table 1 or 2 matches, and how much more often than what needs no training.

    Rates are of :func:`lib.metrics.matching.rate_table`, `chosen` says how the row was chosen, and `found` are its
    :func:`differences` from what needs none.
    """
    line = next(rates[(rates.row == best) & (rates.n > 0)].itertuples(), None)
    if line is None:
        return None
    rate = Rate(line.default, line.default_low, line.default_high, int(line.n))
    says = {"more": "more often", "less": "less often", "unresolved": "unresolved"}
    parts = [f" {name}: {says[direction(rate)]}, {points(rate)}." for name, rate in found.items() if rate.n]
    return f"Table {table}: {best} ({chosen}) matches {_percent(rate)}.{''.join(parts)}"


def valid(scores: pd.DataFrame) -> str | None:
    """Share of valid structures of each method, from :func:`lib.metrics.adherence.adherence`."""
    lines = scores[(scores.score == "valid") & (scores.n > 0)].itertuples()
    parts = [f"{x.method} {_percent(Rate(x.value, x.ci_low, x.ci_high, int(x.n)))}" for x in lines]
    return f"Valid structures among the answers to section 7.1's requests: {'; '.join(parts)}." if parts else None


def candidates(says: Sequence[str], n_requests: int, limits: str) -> str | None:
    """What became of the candidates for Table 3, each as :func:`lib.studies.table_3.says_of` puts it.

    The limits are the distances from the hull that are unresolved, in words.
    """
    if not n_requests:
        return None
    counts = Counter("known" if text.startswith("known") else text for text in says)
    words = {"known": "crystals that the data hold"}
    fates = [f"{counts[f]} {words.get(f, f)}" for f in ("below the hull", "unresolved", "known", "above the hull")]
    gave = f"{len(says)} relaxed candidates: {', '.join(fates)}" if len(says) else "no relaxed candidate"
    below = [-e for row in published.TABLE_3.values() for cell in row.values() for e in cell if e < 0]
    return (
        f"Table 3: {n_requests:,} requests to models gave {gave}. Unresolved are {limits}. The paper "
        f"calls {len(below)} structures below the hull, by {min(below):g} to {max(below):g} meV/atom; PBE's reaction "
        f"energies scatter by {1000 * published.DFT_ERROR:.0f} meV/atom."
    )


def energy_response(response: pd.DataFrame, energies: str) -> str | None:
    """Whether asking for lower energies gives lower ones, from :func:`lib.studies.funnel.energy_response`.

    The slopes are those of `energies`, "as generated" or "relaxed".
    """
    parts = []
    for x in response[(response.energies == energies) & (response.n > 0)].itertuples():
        rate = Rate(x.slope, x.slope_low, x.slope_high, int(x.n))
        says = {"more": "yes", "less": "no, a higher one", "unresolved": "unresolved"}[direction(rate)]
        ends = f", {1000 * rate.value:+.0f} meV/atom for each eV/atom (95 % interval {1000 * rate.ci_low:+.0f} to "
        ends += f"{1000 * rate.ci_high:+.0f}, n = {rate.n})"
        parts.append(f"{x.method} {says}{ends if pd.notna(rate.ci_low) else ''}")
    return f"Does asking for a lower energy give one ({energies})? {'; '.join(parts)}." if parts else None


def quickstart(funnel: pd.DataFrame, answers: pd.DataFrame, error: float) -> str | None:
    """What the shipped weights answered: the funnel and the table of :class:`lib.generation.answers.Answers`.

    The error is the potential's mean error in differences between crystals of one formula, eV/atom.
    """
    if funnel.empty:
        return None
    asked, known, distinct = (funnel[name].sum() for name in ("asked", "of them known", "distinct"))
    text = f"Quickstart: of {asked} structures, {known} of them known before, {distinct} are distinct crystals."
    for _, ranked in answers.groupby("request"):
        first, gaps = ranked.iloc[0], (ranked.formation_energy - ranked.formation_energy.iloc[0]).iloc[1:].abs()
        text += f" First for {first.formula}: {first['name']}, space group {first['space_group_0.1']}"
        text += f" (known: {first.known})" if first.known else ""
        if pd.notna(first.formation_energy):
            text += f", formation energy {first.formation_energy:.3f} eV/atom, with {(gaps < error).sum()} of the "
            text += f"others within {1000 * error:.0f} meV/atom, the potential's error"
        text += "."
    return text


def _percent(rate: Rate) -> str:
    ends = f"95 % interval {100 * rate.ci_low:.1f} to {100 * rate.ci_high:.1f}, n = {rate.n}"
    return f"{100 * rate.value:.1f} % ({ends})"
