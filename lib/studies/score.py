"""What the notebooks of the score model, 20 to 23, need: facts of crystals and graphs, and what needs no learning."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from pymatgen.core import Structure

from lib.core.published import SCORE_DATA, SCORE_TABLE_1
from lib.core.stats import Rate, cells
from lib.core.streams import numpy_stream, torch_stream
from lib.core.workers import progress
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable
from lib.generation.sampling import TrainedModel
from lib.metrics.coverage import Fingerprints, chgnet_features, frechet_distance
from lib.models.cell_state import CellStates
from lib.retrieval.baselines import smallest_distance
from lib.retrieval.candidates import best_candidates
from lib.retrieval.site_statistics import generic_unit, in_any_axes, positions_by_element
from lib.retrieval.templates import ElementRanking, Template, best_orders, by_count, replacement, substituted_unit
from lib.studies.evaluation import coverage
from lib.symmetry.multigraph import Multigraph, multigraph
from lib.symmetry.orbits import Orbits
from lib.symmetry.wyckoff import AsymmetricUnit, Site, assignments
from lib.training.trainer import Trainer

FAMILIES = {  # number of the last group of each family
    "triclinic": 2,
    "monoclinic": 15,
    "orthorhombic": 74,
    "tetragonal": 142,
    "hexagonal": 194,
    "cubic": 230,
}
OXYGEN = "share of oxygen among inequivalent sites"
MOST_WAYS = 200  # to put a composition on positions, of which chance takes one
TEMPLATES = 200  # that are looked at for one on the same positions


def families(space_groups: np.ndarray) -> pd.DataFrame:
    """Crystals of each crystal family, and their share (Figure 4)."""
    family = np.searchsorted(list(FAMILIES.values()), space_groups)
    counts = np.bincount(family, minlength=len(FAMILIES))
    return pd.DataFrame({"family": list(FAMILIES), "crystals": counts, "share": counts / max(counts.sum(), 1)})


def inequivalent_sites(units: Sequence[AsymmetricUnit]) -> pd.DataFrame:
    """A line a crystal and element of it: crystal, element, sites (inequivalent ones; Figures 6 and 7)."""
    lines = []
    for i, unit in enumerate(units):
        numbers, counts = np.unique([site.species for site in unit.sites], return_counts=True)
        lines += [(i, SYMBOLS[z], n) for z, n in zip(numbers, counts, strict=True)]
    return pd.DataFrame(lines, columns=["crystal", "element", "sites"])


def beside_published(crystals: CrystalTable, sites: pd.DataFrame) -> pd.DataFrame:
    """The facts that section 5.1 tells of the paper's crystals: quantity, here, published.

    Args:
        sites: :func:`inequivalent_sites` of some of them.
    """
    by_element = sites.groupby("element").sites.sum()
    angles_free = SCORE_DATA["monoclinic or triclinic crystals"] / SCORE_DATA["crystals"]
    lines = [
        ("crystals", len(crystals), SCORE_DATA["crystals"]),
        ("share monoclinic or triclinic", np.mean(crystals.space_group <= FAMILIES["monoclinic"]), angles_free),
        (OXYGEN, by_element.get("O", 0) / by_element.sum(), SCORE_DATA[OXYGEN]),
        (
            "share with oxygen",
            crystals.has_element(8).mean(),
            SCORE_DATA["crystals with oxygen"] / SCORE_DATA["crystals"],
        ),
    ]
    return pd.DataFrame(lines, columns=["quantity", "here", "published"])


def graph_in_words(sizes: pd.DataFrame, n: int, different: int, difference: float) -> str:
    """What was found of the graph: :func:`graph_sizes`, and :func:`largest_difference` of n crystals."""
    triplets = sizes.set_index("graph").triplets
    times = triplets["all atoms"] / triplets["inequivalent sites"]
    return (
        f"Multigraph: over inequivalent sites a crystal has {times:.1f} times fewer triplets than over all atoms, and "
        f"as many neighbours as pymatgen finds in {n - different} of {n} crystals (distances to {difference:.1g} Å)."
    )


def sites_in_words(share: Rate) -> str:
    """How often an element has one or two inequivalent sites, which Figure 7 shows."""
    return (
        f"An element of a crystal has one or two inequivalent sites in {100 * share.value:.0f} % of cases "
        f"({100 * share.ci_low:.0f} to {100 * share.ci_high:.0f} %, n = {share.n} elements of crystals)."
    )


# ------------------------------------------------------------------------------------------------------- graphs


def graph_of(units: Sequence[AsymmetricUnit], cutoff: float) -> tuple[Orbits, Multigraph]:
    """The multigraph of crystals as they are, with no cap."""
    n = max(len(unit.species) for unit in units)
    orbits, u = Orbits.pack(units, n), torch.zeros(len(units), n, 3)
    for row, unit in zip(u, units, strict=True):
        for place, site in zip(row, unit.sites, strict=False):
            place[: len(site.parameters)] = torch.as_tensor(np.asarray(site.parameters))
    lattice = torch.from_numpy(np.array([unit.lattice for unit in units], dtype=np.float32))
    none = {"most_edges": 10**6, "most_near": 10**6}
    return orbits, multigraph(orbits, u, lattice @ lattice.mT, cutoff, **none)


def without_symmetry(unit: AsymmetricUnit) -> AsymmetricUnit:
    """The same crystal with every atom a site of its own."""
    atoms = zip(unit.species, unit.frac_coords, strict=True)
    return AsymmetricUnit(unit.lattice, 1, tuple(Site(int(z), 0, x) for z, x in atoms))


def graph_sizes(units: Sequence[AsymmetricUnit], cutoff: float, size: int = 32) -> pd.DataFrame:
    """Mean nodes, edges and triplets a crystal, over inequivalent sites and over all atoms."""
    kinds = {"inequivalent sites": list(units), "all atoms": [without_symmetry(unit) for unit in units]}
    lines = []
    for name, several in kinds.items():
        total = np.zeros(3)
        for i in progress(range(0, len(several), size), desc=f"graphs of {name}", unit="batch"):
            orbits, graph = graph_of(several[i : i + size], cutoff)
            total += [int(orbits.mask.sum()), len(graph.node), len(graph.edge)]
        lines.append({"graph": name, **dict(zip(("nodes", "edges", "triplets"), total / len(units), strict=True))})
    return pd.DataFrame(lines)


def largest_difference(table: CrystalTable, units: Sequence[AsymmetricUnit], cutoff: float) -> tuple[float, int]:
    """Of the distances of neighbours in the multigraph from pymatgen's in Å, and crystals whose numbers differ.

    Atoms at the cutoff itself are left out of the comparison.
    """
    largest, different = 0.0, 0
    for i in progress(range(len(units)), desc="neighbours by pymatgen", unit="crystal"):
        orbits, graph = graph_of(units[i : i + 1], cutoff)
        _, _, _, theirs = table.structure(i).get_neighbor_list(cutoff)
        mine = graph.distance.repeat_interleave(orbits.multiplicity.flatten()[graph.node]).double().numpy()
        mine, theirs = (np.sort(values[values < cutoff - 1e-2]) for values in (mine, theirs))
        if len(mine) != len(theirs):
            different += 1
        elif len(mine):
            largest = max(largest, float(np.abs(mine - theirs).max()))
    return largest, different


def milliseconds(units: Sequence[AsymmetricUnit], cutoff: float) -> float:
    """Processor time of the graph of a crystal, the best of three batches, in ms."""
    taken = []
    for _ in range(3):
        begun = time.process_time()
        graph_of(units, cutoff)
        taken.append(time.process_time() - begun)
    return 1000 * min(taken) / len(units)


# ------------------------------------------------------------------------------------------- what needs no learning


def asked(units: Sequence[AsymmetricUnit]) -> dict[str, object]:
    """Requests for crystals on given positions, of :meth:`lib.generation.sampling.TrainedModel.generate`."""
    bare = [
        AsymmetricUnit(u.lattice, u.symmetry, tuple(Site(s.species, s.position, s.parameters) for s in u.sites))
        for u in units
    ]
    groups = np.array([unit.symmetry for unit in units])
    return {
        "species": [unit.species for unit in units],
        "space_group": groups,
        "energy": np.full(len(units), np.nan),
        "units": bare,
    }


def random_on_sites(rep: CellStates, units: Sequence[AsymmetricUnit], n: int, seed: int) -> list[Structure | None]:
    """Random sites in a cell of random shape at the elements' volume: of n draws the one with atoms furthest apart."""
    batch = rep.request(**asked(units))
    best: list[Structure | None] = [None] * len(units)
    furthest = np.full(len(units), -1.0)
    for draw in progress(range(n), desc="random crystals", unit="draw"):
        noise = rep.noise("normal", batch.x_1, torch_stream(torch.device("cpu"), seed, "random crystals", draw))
        for i, structure in enumerate(rep.decode(rep.constrain(noise, batch), batch)):
            apart = -1.0 if structure is None else smallest_distance(structure)
            if apart > furthest[i]:
                best[i], furthest[i] = structure, apart
    return best


def random_positions(targets: CrystalTable, seed: int, draws: int = 1) -> list[AsymmetricUnit]:
    """The targets' atoms on Wyckoff positions of their groups that hold them, each draw one way of up to MOST_WAYS by
    chance; those of one target follow each other."""
    units = []
    for i in progress(range(len(targets)), desc="random positions", unit="target"):
        elements, counts = by_count(targets.species_of(i))
        group, rng = int(targets.space_group[i]), numpy_stream(seed, "random positions", str(targets.id[i]))
        ways = [way for way, _ in zip(assignments(group, counts.tolist()), range(MOST_WAYS), strict=False)]
        units += [generic_unit(group, elements, ways[rng.integers(len(ways))]) for _ in range(draws)]
    return units


def without_energies(targets: CrystalTable) -> CrystalTable:
    """The same crystals with energies that nobody knows: no level is told them, and rankings would choose by them."""
    return replace(targets, formation_energy=np.full(len(targets), np.nan))


def told_positions(targets: CrystalTable, ranking: ElementRanking) -> dict[str, Sequence[AsymmetricUnit]]:
    """Sites of each target by level: its own, and those of the training crystal of its group of most alike elements."""
    found = best_candidates(without_energies(targets), ranking)
    return {"letters": targets.asymmetric_units, "composition": [one.unit for one in found]}


def substitution(targets: CrystalTable, ranking: ElementRanking) -> dict[str, list[Structure | None]]:
    """Training crystals with the elements of the targets, by what each level is told; None where there is none.

    All are of the target's group and, of those that the level allows, that of the most alike elements: at "composition"
    of as many atoms of each element; at "letters" of these one on the target's positions, up to the choice of origin
    and axes, and where none of the first TEMPLATES is, the first; at "sites" of as many inequivalent sites of each.
    """
    training, found = ranking.training, {"letters": [], "composition": [], "sites": []}
    by_sites = SiteTemplates(ranking)
    templates = ranking.templates(without_energies(targets), TEMPLATES, use_space_group=True)
    for unit, group, several in zip(targets.asymmetric_units, targets.space_group.tolist(), templates, strict=True):
        first, wanted = next(iter(several), None), _in_any_axes(unit)
        replaced = ((t, substituted_unit(training.unit_of(t.row), t.replaced, ranking.volumes)) for t in several)
        found["letters"].append(next((t for t, one in replaced if _in_any_axes(one) == wanted), first))
        found["composition"].append(first)
        found["sites"].append(next(iter(by_sites.templates(group, [site.species for site in unit.sites], 1)), None))
    return {level: [t and ranking.substituted(t) for t in chosen] for level, chosen in found.items()}


class SiteTemplates:
    """Training crystals by space group and by how many inequivalent sites each element has, as level "sites" is told.

    Attributes:
        crystals: (group, numbers of sites, ascending) -> row of the training set and elements in that order.
    """

    def __init__(self, ranking: ElementRanking) -> None:
        self.ranking, self.crystals = ranking, defaultdict(list)
        training = ranking.training
        for row, (group, unit) in enumerate(zip(training.space_group.tolist(), training.asymmetric_units, strict=True)):
            elements, counts = by_count(np.array([site.species for site in unit.sites]))
            self.crystals[group, tuple(counts)].append((row, elements))

    def templates(self, group: int, sites: Sequence[int], n: int) -> list[Template]:
        """At most n crystals of a group for the elements of inequivalent sites, those of the most alike ones first."""
        elements, counts = by_count(np.array(sites))
        alike, distance = self.crystals[group, tuple(counts)], self.ranking.element_distances
        if not alike:
            return []
        theirs = best_orders(distance, elements, counts, np.array([one for _, one in alike]))
        nearest = np.argsort((distance[elements, theirs] @ counts).round(6), kind="stable")[:n].tolist()
        return [Template(alike[i][0], replacement(theirs[i], elements), 0.0) for i in nearest]


def _in_any_axes(unit: AsymmetricUnit) -> tuple:
    """What units on the same positions share, whichever origin and axes describe them."""
    taken = positions_by_element(unit)
    return unit.symmetry, tuple(taken), in_any_axes(unit.symmetry, list(taken.values()))


def random_in_the_true_cell(targets: CrystalTable, seed: int) -> list[Structure]:
    """Each target's atoms anywhere in its own cell."""
    rng = numpy_stream(seed, "random atoms")
    return [Structure(s.lattice, s.species, rng.random((len(s), 3))) for s in targets.structures()]


def table_1(rows: Mapping[str, Sequence[Structure | None]], test: CrystalTable, n_workers: int) -> pd.DataFrame:
    """Table 1: coverage of and by a test set and Fréchet distances, a line a row, published ones below.

    Returns:
        row, cov_p, cov_r (each with _low and _high, 95 %), fd_crystalnn, fd_chgnet and n, the structures with a
        fingerprint.
    """
    reference = list(test.structures())
    known = Fingerprints.of(reference, n_workers, "test crystals")
    every = chgnet_features([*reference, *(s for several in rows.values() for s in several)], n_workers)
    ends, lines = np.cumsum([len(reference), *map(len, rows.values())])[:-1], []
    features, *of_rows = np.split(every, ends)
    for (row, structures), those in zip(rows.items(), of_rows, strict=True):
        precision, recall, distance = coverage(test, structures, known, n_workers).values()
        rates = cells({"cov_p": precision, "cov_r": recall}) | {"fd_crystalnn": distance.value}
        lines.append({"row": row} | rates | {"fd_chgnet": frechet_distance(those, features), "n": distance.n})
    return pd.concat([pd.DataFrame(lines), SCORE_TABLE_1], ignore_index=True)


# ------------------------------------------------------------------------------------------------------ the model


def silent_loss(trainer: Trainer, crystals: CrystalTable, seed: int, n: int = 20) -> float:
    """The mean loss of a network that predicts no noise, over n draws: below 1, as noise that has gone round the
    lattice says nothing of itself, and sites without free parameters have none."""
    rep, method = trainer.rep, trainer.method
    batch, stream = rep.trim(rep.pack(crystals)), torch_stream(torch.device("cpu"), seed, "silent")
    losses = [method.losses(lambda x, *_: torch.zeros_like(x), batch, method.draw(batch, stream)) for _ in range(n)]
    return float(torch.stack(losses).mean())


def walk(model: TrainedModel, units: Sequence[AsymmetricUnit], steps: int, seed: int, sampler: str) -> pd.DataFrame:
    """How far atoms (Å) and cell are from where they end, a line a call of the network: call, level, atoms, cell."""
    rep, seen = model.representation, []
    batch = rep.trim(rep.request(**asked(units)))

    def watched(x: torch.Tensor, t: torch.Tensor, told: object) -> torch.Tensor:
        seen.append((float(t[0]), x))
        return model.net(x, t, told)

    end = model.method.sample(watched, batch, torch_stream(torch.device("cpu"), seed, "walk"), steps, sampler)
    metric, free = rep.cell(end, batch)[0], batch.orbits.free.any(-1)
    lines = []
    for call, (level, x) in enumerate(seen):
        off = batch.orbits.without_drift((x - end)[:, :-2] * batch.orbits.free)
        off = torch.einsum("btij,btj->bti", batch.orbits.directions, off - off.round())
        atoms = torch.einsum("bti,bij,btj->bt", off, metric, off)[free].mean().sqrt()
        cell = (rep.values(x) - rep.values(end)).square().sum(1).mean().sqrt()
        lines.append({"call": call, "level": level, "atoms": float(atoms), "cell": float(cell)})
    return pd.DataFrame(lines)


def seconds_of_64(model: TrainedModel, units: Sequence[AsymmetricUnit], steps: int, seed: int) -> float:
    """Seconds that 64 structures on some positions take, with so many calls of the network."""
    several = [units[i % len(units)] for i in range(64)]
    begun = time.perf_counter()
    model.generate(**asked(several), steps=steps, batch_size=64, seed=seed)
    return time.perf_counter() - begun
