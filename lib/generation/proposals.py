"""Which structures a request wants made, and what of its composition is known already: sites before coordinates.

Sites come from statistics of the training set in the weights' file (:mod:`lib.retrieval.site_statistics`), or from
templates of a run's training set (:mod:`lib.retrieval.candidates`). Beside what a model is to make of them stand known
crystals and prototypes (:mod:`lib.generation.known`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.crystals.elements import SYMBOLS, parse_formula
from lib.crystals.table import CrystalTable
from lib.crystals.validity import reason_invalid
from lib.energies.relaxation import single_points
from lib.generation.known import MAX_ATOMS, known_crystals, known_prototypes
from lib.generation.requests import Request
from lib.generation.sampling import TrainedModel
from lib.generation.ship import Shipped
from lib.retrieval.candidates import retrieved_candidates
from lib.retrieval.site_statistics import Candidate
from lib.retrieval.template_ranking import LearntRanking
from lib.symmetry.wyckoff import AsymmetricUnit
from lib.training.registry import NETWORKS

UNSEEN = 0.01  # weight of sites that no training crystal took
AGAIN = 0.5  # by which the weight of sites falls with each structure on them
MOST_UNITS = 4  # formula units that are tried where any number will do
CRYSTALS, PROTOTYPES = 4, 6  # known ones that are relaxed for a request, if it asks for as many structures
DECORATED = 60  # prototypes of which the potential chooses


@dataclass(frozen=True)
class Asked:
    """One structure: for which request, with how many formula units, on which sites, at what energy."""

    request: int
    z: int
    candidate: Candidate
    energy: float
    # "" where the model is to make it; else "crystal" or "prototype" with its name, or "given" for the crystal to
    # improve on, which is judged among its answers: their sites are their own
    source: str = ""


def checked(request: Request, model: TrainedModel, shipped: Shipped) -> list[str]:
    """Warnings about a request that lies at the edge of what the model has learnt. Raises BadInput if it lies outside:
    an element it has never seen, or more atoms than it takes."""
    unknown = sorted(SYMBOLS[list(set(request.species(1).tolist()) - set(shipped.elements))])
    if unknown:
        raise BadInput(
            f"{request.formula} contains {', '.join(unknown)}, which none of the model's training crystals does; "
            f"it knows {', '.join(SYMBOLS[list(shipped.elements)])}"
        )
    atoms, most = len(request.species(1)), model.representation.n_sites
    z = request.z[-1] if request.z else 1
    if atoms * z > most:
        fits = f"ask for z up to {most // atoms}" if atoms <= most else "ask for a smaller formula"
        raise BadInput(f"{z} x {request.formula} has {atoms * z} atoms and the model takes {most}; {fits}")
    warnings = []
    if request.z is None and atoms * MOST_UNITS > most:
        warnings.append(
            f"{request.formula}: cells of more than {most // atoms} formula units ({most} atoms) are beyond the model; "
            "a ground state that needs them is not among the answers"
        )
    if isinstance(request.energy, str) and not NETWORKS[model.spec.network].open_conditions:
        if request.energy == "any":
            raise BadInput(f"{model.spec.name} needs an energy; give one in eV/atom, or 'lowest'")
        return warnings
    low, high = shipped.energy
    if not request.polymorph and not isinstance(request.energy, str) and not low <= request.energy <= high:
        warnings.append(
            f"{request.formula}: {request.energy:g} eV/atom lies outside the training energies, {low:g} to {high:g}; "
            "expect structures that do not have it"
        )
    return warnings


def proposals(
    request: Request, number: int, shipped: Shipped, ranking: LearntRanking | None = None, most: int = 20
) -> list[Asked]:
    """The n structures to make for a request, in order of the probability of their sites.

    Where numbers z of formula units are asked for, each gets an equal share of the n structures. Otherwise the sites of
    all z are compared, and the scores of each z are multiplied by its share of the votes
    (:class:`lib.retrieval.site_statistics.SiteStatistics`).

    With a ranking of a training set's templates, statistics stand in for those that are missing. The model takes `most`
    atoms. Raises BadInput if none of the asked groups can hold the atoms.
    """
    energy = {"any": np.nan, "lowest": shipped.energies.lowest(request.formula)}.get(request.energy, request.energy)
    aim = np.nan if request.polymorph else energy
    above = aim - shipped.energies.expected(request.formula)
    numbers = request.z or range(1, min(MOST_UNITS, most // len(request.species(1))) + 1)
    choices, votes = {}, {}
    for z in numbers:
        species = request.species(z)
        choices[z] = retrieved_candidates(ranking, species, request.n, request.space_groups, aim) if ranking else []
        voted = Counter() if choices[z] else shipped.sites.votes(species, request.space_groups, above)
        votes[z] = 1.0 if choices[z] else voted.total()
        n = request.n if request.z else min(request.n, len(voted))  # of any z, what none took is not asked for
        if not choices[z] and (request.z or votes[z]):
            choices[z] = shipped.sites.candidates(species, n, request.space_groups, above)
    if not any(choices.values()):  # of any z: none has been seen
        for z in numbers:
            choices[z] = choices[z] or shipped.sites.candidates(request.species(z), request.n, request.space_groups)
    possible = [z for z, candidates in choices.items() if candidates]
    if not possible:
        groups = "any" if request.space_groups is None else " or ".join(map(str, request.space_groups))
        raise BadInput(
            f"no primitive cell of {' or '.join(map(str, numbers))} x {request.formula} has space group {groups}, "
            "whose Wyckoff positions cannot hold the atoms, or only with higher symmetry; ask for another z or group"
        )
    if request.z is None:
        total = sum(votes[z] for z in possible) or 1.0
        weighed = [(z, one, votes[z] / total) for z in possible for one in choices[z]]
        picked = shared_out([replace(c, score=c.score * weight) for _, c, weight in weighed], request.n)
        units = len(request.species(1))
        asked = [Asked(number, len(c.unit.species) // units, c, float(energy)) for c in picked]
    else:
        asked = []
        for i, z in enumerate(possible):
            share = request.n // len(possible) + (i < request.n % len(possible))
            asked += [Asked(number, z, candidate, float(energy)) for candidate in shared_out(choices[z], share)]
    return sorted(asked, key=lambda one: -one.candidate.score)


def shared_out(candidates: Sequence[Candidate], n: int) -> list[Candidate]:
    """n structures over the candidates: one of high score several times, each time at half the weight of the last."""
    worth = [(max(one.score, UNSEEN) * AGAIN**times, -i) for i, one in enumerate(candidates) for times in range(n)]
    return [candidates[-i] for _, i in sorted(worth, reverse=True)[:n]]


def known_sites(
    requests: Sequence[Request], shipped: Shipped, table: CrystalTable | None, relax: str, **how
) -> list[Asked]:
    """What is known of each request's composition: crystals of a table, and prototypes with its elements.

    Of the prototypes the potential chooses those that lie lowest as they are (`how` as for
    :func:`lib.energies.relaxation.single_points`); without one, those on the sites that training crystals of the same
    counts took most often.
    """
    found: list[tuple[int, Candidate]] = []
    prototypes: list[tuple[int, Candidate]] = []
    for number, request in enumerate(requests):
        species = request.species(1)
        z = range(MAX_ATOMS // len(species) + 1) if request.z is None else request.z
        fits = {"space_groups": request.space_groups, "n_sites": np.multiply(z, len(species))}
        if table is not None:
            formula = parse_formula(request.formula).reduced_formula
            several = known_crystals(table, formula, min(CRYSTALS, request.n), **fits)
            found += [(number, replace(one, score=np.nan)) for one in several]
        for one in known_prototypes(species, DECORATED, shipped.volumes, **fits):
            if not reason_invalid(structure_of(one.unit), shipped.volumes):
                prototypes.append((number, replace(one, score=shipped.sites.share(one.unit))))
    worth = np.array([-one.score or np.nan for _, one in prototypes])
    if relax != "none":
        worth = single_points([structure_of(one.unit) for _, one in prototypes], relax, **how)
    for number, request in enumerate(requests):
        mine = [i for i in np.argsort(worth, kind="stable") if prototypes[i][0] == number and np.isfinite(worth[i])]
        found += [prototypes[i] for i in mine[: min(PROTOTYPES, request.n)]]
    units = [len(request.species(1)) for request in requests]
    return [Asked(i, len(one.unit.species) // units[i], one, np.nan, one.template) for i, one in found]


def structure_of(unit: AsymmetricUnit) -> Structure:
    """All atoms of a unit."""
    return Structure(unit.lattice, unit.species.tolist(), unit.frac_coords)
