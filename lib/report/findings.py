"""What a run found, in sentences made from its tables; :meth:`lib.core.run.Run.finding` keeps them for the report.

Intervals are 95 %, and a difference whose interval contains 0 is called unresolved. A function returns None where there
is nothing to speak of.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import pandas as pd

from lib.core import published
from lib.core.stats import Rate, direction, points
from lib.crystals.validity import MIN_DISTANCE_BEFORE, VOLUME_WINDOW


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
    """Differences in match rate by "a minus b", from lines of :func:`lib.metrics.matching.compare_rows`."""
    chosen = lines[lines.verdict == verdict].itertuples()
    return {f"{x.a} minus {x.b}": Rate(x.difference, x.ci_low, x.ci_high, int(x.n)) for x in chosen}


def claim(question: str, found: Mapping[str, Rate], of: Callable[[Rate], str] = points) -> str | None:
    """The answer to a question of what is more in each difference that tests it: yes, no or unresolved, with the number
    as `of` writes it. Differences are by name, and positive where the answer is yes."""
    says = {"more": "yes", "less": "no", "unresolved": "unresolved"}
    verdicts = {name: says[direction(rate)] for name, rate in found.items() if rate.n}
    parts = [f"{name}: {of(found[name])}" for name in verdicts]
    if len(parts) > 1:
        tally = ", ".join(f"{word} in {n} of {len(parts)}" for word, n in Counter(verdicts.values()).items())
        parts = [f"{part}, {word}" for part, word in zip(parts, verdicts.values(), strict=True)]
    else:
        tally = "".join(verdicts.values())
    return f"{question} {tally.capitalize()}. {'; '.join(parts)}." if parts else None


def plain(difference: Rate) -> str:
    """A difference of numbers that are no shares, with its interval."""
    ends = f"{difference.ci_low:+.3f} to {difference.ci_high:+.3f}"
    return f"{difference.value:+.3f} (95 % interval {ends}, n = {difference.n})"


def none_matches(rates: pd.DataFrame) -> str | None:
    """Where no row of :func:`lib.metrics.matching.rate_table` matches any target at default tolerances: that rows which
    match nothing are not told apart by their match rates, rather than how little these differ."""
    if not len(rates) or rates.default.any() or not rates.n.all():
        return None
    most = 100 * rates.default_high.max()
    return (
        f"Match rates do not tell {_listed(rates.row.tolist())} apart: none matches any of its {rates.n.max():,} "
        f"targets at default tolerances (each rate is below {most:.1f} %, 95 % interval)."
    )


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
    parts = [f" {name}: {points(rate)}, {says[direction(rate)]}." for name, rate in found.items() if rate.n]
    return f"Table {table}: {best} ({chosen}) matches {_percent(rate)} of its targets.{''.join(parts)}"


def valid(scores: pd.DataFrame) -> str | None:
    """Share of valid structures of each method and what counts as one, from :func:`lib.metrics.adherence.adherence`."""
    lines = scores[(scores.score == "valid") & (scores.n > 0)].itertuples()
    parts = [f"{x.method} {_percent(Rate(x.value, x.ci_low, x.ci_high, int(x.n)))}" for x in lines]
    rule = (
        f"volume {VOLUME_WINDOW[0]:g} to {VOLUME_WINDOW[1]:g} of what the elements take in the data, no atoms closer "
    )
    rule += f"than {MIN_DISTANCE_BEFORE:g} of the sum of their covalent radii, before any relaxation"
    return (
        f"Valid structures among the answers to section 7.1's requests ({rule}): {'; '.join(parts)}." if parts else None
    )


def candidates(says: Sequence[str], n_requests: int, limits: str) -> str | None:
    """What became of the candidates for Table 3, each as :func:`lib.studies.table_3.says_of` puts it.

    The limits are the distances from the hull that are unresolved, in words.
    """
    if not n_requests:
        return None
    counts = Counter("known" if text.startswith("known") else text for text in says)
    words = {"known": "equal to a crystal of the data", "unresolved": "new and unresolved"}
    words |= {side: f"new and {side}" for side in ("below the hull", "above the hull")}
    fates = [f"{counts[fate]} {words[fate]}" for fate in ("known", "below the hull", "unresolved", "above the hull")]
    gave = f"{len(says)} relaxed candidates: {', '.join(fates)}" if len(says) else "no relaxed candidate"
    below = [-e for row in published.TABLE_3.values() for cell in row.values() for e in cell if e < 0]
    return (
        f"Table 3: {n_requests:,} requests to models gave {gave}. Unresolved distances from the hull: "
        f"{limits}. The paper calls {len(below)} structures below the hull, by {min(below):.3g} to {max(below):.3g} "
        f"meV/atom, less than the {1000 * published.DFT_ERROR:.0f} meV/atom by which PBE's reaction energies scatter."
    )


def energy_response(response: pd.DataFrame, energies: str, not_told: Collection[str] = ()) -> str | None:
    """Whether asking for lower energies gives lower ones, from :func:`lib.studies.funnel.energy_response`.

    The slopes are those of `energies`, "as generated" or "relaxed". A method of those that are `not_told` the energy is
    named as what to compare with: it cannot heed a request.
    """
    parts = []
    for x in response[(response.energies == energies) & (response.n > 0)].itertuples():
        rate = Rate(x.slope, x.slope_low, x.slope_high, int(x.n))
        says = {"more": "yes", "less": "no, it rises", "unresolved": "unresolved"}[direction(rate)]
        number = f"{rate.value:+.2f} (95 % interval {rate.ci_low:+.2f} to {rate.ci_high:+.2f}, n = {rate.n})"
        number = number if pd.notna(rate.ci_low) else f"too few structures (n = {rate.n})"
        parts.append(f"{x.method} {number}, {'not told the energy' if x.method in not_told else says}")
    rule = "eV/atom obtained for each eV/atom asked within a formula; 1 is obedience, 0 none"
    return f"Does asking for a lower energy give one ({energies}; {rule})? {'; '.join(parts)}." if parts else None


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
        own = ranked[(ranked.known == "") & ranked.formation_energy.notna()]
        if first.known and len(own) and pd.notna(first.formation_energy):
            higher = 1000 * (own.formation_energy.iloc[0] - first.formation_energy)
            text += f" The first that is not known, {own['name'].iloc[0]}, lies {higher:.0f} meV/atom above it."
    return text


def _listed(names: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _percent(rate: Rate) -> str:
    ends = f"95 % interval {100 * rate.ci_low:.1f} to {100 * rate.ci_high:.1f}, n = {rate.n}"
    return f"{100 * rate.value:.1f} % ({ends})"
