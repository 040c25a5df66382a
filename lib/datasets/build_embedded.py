"""Build the embedded polymorph set, once: decorate prototypes, relax, merge (the way AFLOW's libraries were made).

    python -m lib.build_embedded relax --workers 2     # shards of 64; resumes after any interruption
    python -m lib.build_embedded assemble              # lib/data/embedded.parquet

The energies are those of a machine-learned potential (CHGNet), not of DFT. Prototypes: Mehl et al.,
10.1016/j.commatsci.2017.01.017, as shipped with pymatgen; derivative superstructures: Hart and Forcade,
10.1103/PhysRevB.77.224115, enumerated by icet.
"""

import argparse
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase.data import covalent_radii
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from lib.core.commands import Help, command, whole
from lib.core.errors import BadInput
from lib.core.files import replacing
from lib.core.published import INFERENCE_FORMULAS
from lib.core.workers import progress, worker_pool
from lib.crystals.elements import formula_of
from lib.crystals.table import CrystalTable
from lib.crystals.validity import MIN_DISTANCE_AFTER, VOLUME_WINDOW
from lib.datasets.checkup import DUPLICATE_ENERGY, same_crystal
from lib.datasets.sources.embedded import EMBEDDED
from lib.energies.potentials import potential_provenance
from lib.energies.relaxation import relax
from lib.symmetry.cells import SYMPREC

FMAX = 0.02  # eV/Å; tighter than candidates are relaxed, since models learn from what comes out
SHARD_FOLDER = Path("data/embedded_shards")
SHARD_SIZE = 64

GROUND_STATES = {  # AFLOW prototype labels of the elements' known ground states (alpha-B12 for boron)
    **dict.fromkeys(["Ag", "Al", "Au", "Cu", "Ni", "Pd", "Pt"], "A_cF4_225_a"),
    **dict.fromkeys(["Hf", "Mg", "Ti", "Zr"], "A_hP2_194_c"),
    **dict.fromkeys(["Mo", "Nb", "Ta", "V", "W"], "A_cI2_229_a"),
    "B": "A_hR12_166_2h",
}
SIMPLE_METALS = ["A_cF4_225_a", "A_hP2_194_c", "A_cI2_229_a"]
BORIDE_SYSTEM = ("B", "Ta", "W")
FIRST_SYSTEMS = ["Al-Ni", "Al-Ti", "Au-Cu", "Ag-Pd", "Ni-Ti", "Mo-Ta", "Nb-W", "Ta-V", "Cu-Pd", "Ni-Pt"]
LATER_SYSTEMS = [
    *["Pt-Ti", "Al-Cu", "Ag-Mg", "Cu-Zr", "Ni-Zr", "Mo-Nb", "V-W", "Pd-Ti", "Hf-Ni", "Al-Mg", "Au-Pd", "Cu-Ti"],
    *["Hf-Pd", "Mo-Ti", "Nb-V", "Cu-Pt", "Al-Zr", "Mg-Pd", "Ag-Au"],
]
MAX_PROTOTYPE_SITES = 6  # of a metal-metal system; 20 for borides
BORIDE_HOSTS = {  # AFLOW label -> metal-lattice cells to order in, so that none exceeds 20 atoms
    "AB2_hP3_191_a_d": (2, 3),  # AlB2
    "AB_oC8_63_c_c": (1, 2),  # CrB
    "AB_tI16_141_e_e": (1, 2),  # MoB
    "A5B2_hP14_194_abdf_f": (1,),  # W2B5
    "A5B2_hR7_166_a2c_c": (1, 2),  # Mo2B5
    "A6B_cP7_221_f_a": (2,),  # CaB6
    "A12B_cF52_225_i_a": (1,),  # UB12
}

ENERGY_WINDOW = (-2.0, 1.0)  # eV/atom


@dataclass(frozen=True)
class Candidate:
    """A decorated prototype before relaxation."""

    id: str
    prototype: str
    structure: Structure


@cache
def aflow_prototypes() -> dict[str, Structure]:
    """AFLOW label -> primitive cell, for the prototypes of at most 20 atoms."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    cells: dict[str, Structure] = {}
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        label, cell = entry["tags"]["aflow"], entry["snl"].structure.get_primitive_structure()
        while label in cells:  # several minerals share a label with other free parameters
            label += "'"
        if len(cell) <= 20:
            cells[label] = cell
    return cells


@cache
def derivative_structures(parent: str, n_sites: int, n_species: int, formula: tuple[int, ...] = ()) -> list[Structure]:
    """Derivative superstructures of fcc, bcc or hcp with H, He (, Li) as place holders."""
    from ase.build import bulk
    from icet.tools import enumerate_structures

    cell = bulk("H", parent, a=3.0, **({"c": 4.9} if parent == "hcp" else {}))
    symbols = ["H", "He", "Li"][:n_species]
    restrictions = {s: (n / n_sites, n / n_sites) for s, n in zip(symbols, formula, strict=False)} or None
    found = enumerate_structures(cell, [n_sites // len(cell)], symbols, concentration_restrictions=restrictions)
    structures = (AseAtomsAdaptor.get_structure(atoms) for atoms in found)
    return [s for s in structures if len(s.composition) == n_species]


def decorate(prototype: Structure, symbols: tuple[str, ...]) -> Structure:
    """The prototype with its species, in alphabetical order, replaced by `symbols`."""
    places = sorted(prototype.symbol_set)
    return prototype.copy().replace_species(dict(zip(places, symbols, strict=True)))


def element_candidates() -> Iterator[Candidate]:
    for symbol, ground_state in GROUND_STATES.items():
        for label in dict.fromkeys([ground_state, *SIMPLE_METALS]):
            yield Candidate(f"{symbol}_{label}", label, decorate(aflow_prototypes()[label], (symbol,)))


def prototype_candidates(system: tuple[str, ...], max_sites: int) -> Iterator[Candidate]:
    for label, cell in aflow_prototypes().items():
        if len(cell.composition) == len(system) and len(cell) <= max_sites:
            for symbols in permutations(system):
                name = f"{'-'.join(system)}_{label}_{''.join(symbols)}"
                yield Candidate(name, label, decorate(cell, symbols))


def derivative_candidates(system: tuple[str, ...], sizes: dict[str, list[int]]) -> Iterator[Candidate]:
    for parent, counts in sizes.items():
        for n_sites in counts:
            for i, cell in enumerate(derivative_structures(parent, n_sites, len(system))):
                yield Candidate(f"{'-'.join(system)}_{parent}{n_sites}_{i:03d}", parent, decorate(cell, system))


def binary_candidates(system: str, max_sites: int = MAX_PROTOTYPE_SITES) -> list[Candidate]:
    pair, sizes = tuple(system.split("-")), {"fcc": [2, 3, 4, 5, 6], "bcc": [2, 3, 4, 5, 6], "hcp": [2, 4, 6]}
    return [*derivative_candidates(pair, sizes), *prototype_candidates(pair, max_sites)]


def inference_candidates() -> Iterator[Candidate]:
    """All derivative superstructures of the three formulas of section 7.1 (198, 529 and 529)."""
    for formula in INFERENCE_FORMULAS:
        amounts = tuple(int(Composition(formula)[symbol]) for symbol in BORIDE_SYSTEM)
        for parent in ("fcc", "bcc", "hcp"):
            for i, cell in enumerate(derivative_structures(parent, 8, 3, amounts)):
                yield Candidate(f"{formula}_{parent}8_{i:03d}", parent, decorate(cell, BORIDE_SYSTEM))


def host_candidates() -> Iterator[Candidate]:
    """Orderings of Ta and W on the metal sites of boride hosts, whole, with one boron or with one metal vacancy.

    One vacancy in three AlB2 cells gives Ta2WB5 and TaW2B5 (boron) and TaWB6 (metal, as in W1-xB3).
    """
    from icet.tools import enumerate_structures

    for label, n_cells in BORIDE_HOSTS.items():
        host = aflow_prototypes()[label]
        metal = min(host.composition, key=lambda e: host.composition[e]).symbol
        if label.startswith("AB_"):
            metal = "Mo" if "Mo" in host.symbol_set else "Cr"
        atoms = AseAtomsAdaptor.get_atoms(host, msonable=False)
        boron_sites = [atom.symbol != metal for atom in atoms]
        for cells in n_cells:
            for vacancy in ("", "B", "M") if label == "AB2_hP3_191_a_d" and cells == 3 else ("",):
                on_boron, on_metal = ["B"] + ["X"] * (vacancy == "B"), ["Ta", "W"] + ["X"] * (vacancy == "M")
                allowed = [on_boron if boron else on_metal for boron in boron_sites]
                one = {"X": (1 / (cells * len(host)),) * 2} if vacancy else None
                orderings = enumerate_structures(atoms, [cells], allowed, concentration_restrictions=one)
                for i, ordering in enumerate(orderings):
                    del ordering[[a.symbol == "X" for a in ordering]]
                    if len(ordering) <= 20:
                        name = f"B-Ta-W_{label}_{cells}{vacancy and 'v' + vacancy}_{i:03d}"
                        yield Candidate(name, label, AseAtomsAdaptor.get_structure(ordering))


def candidates() -> list[Candidate]:
    """Every candidate, in the order in which they are relaxed: what the notebooks need most comes first."""
    return [
        *element_candidates(),
        *host_candidates(),
        *binary_candidates("B-Ta", 20),
        *(one for system in ("Ta-W", *FIRST_SYSTEMS) for one in binary_candidates(system)),
        *binary_candidates("B-W", 20),
        *inference_candidates(),
        *prototype_candidates(BORIDE_SYSTEM, 8),
        *derivative_candidates(BORIDE_SYSTEM, {"fcc": [3, 4], "bcc": [3, 4], "hcp": [4]}),
        *(one for system in LATER_SYSTEMS for one in binary_candidates(system)),
    ]


def relax_candidate(candidate: Candidate) -> dict:
    """One row of a shard: the candidate, scaled to the volume that pymatgen predicts from bond lengths, relaxed."""
    from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor

    warnings.filterwarnings("ignore")
    row = {"id": candidate.id, "prototype": candidate.prototype, "energy": np.nan, "n_steps": 0}
    structure = candidate.structure
    try:
        structure = DLSVolumePredictor(min_scaling=0.1, max_scaling=10.0).get_predicted_structure(structure)
    except (ValueError, RuntimeError, KeyError, ZeroDivisionError) as error:
        row["failure"] = f"no volume predicted: {error}"[:120]
    else:
        result = relax(structure, fmax=FMAX)
        structure = result.structure
        row |= {"energy": result.energy, "n_steps": result.n_steps, "failure": result.failure}
    return row | {
        "lattice": structure.lattice.matrix.ravel().tolist(),
        "frac_coords": structure.frac_coords.ravel().tolist(),
        "species": list(structure.atomic_numbers),
    }


def relax_shard(path: Path, shard: list[Candidate]) -> None:
    """Relax one shard and write it, whole or not at all."""
    rows = [relax_candidate(candidate) for candidate in shard]
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")


def relax_all(folder: Path, n_workers: int) -> None:
    """Relax every shard that is not on disk yet."""
    todo = candidates()
    shards = {
        folder / f"{i // SHARD_SIZE:04d}.parquet": todo[i : i + SHARD_SIZE] for i in range(0, len(todo), SHARD_SIZE)
    }
    missing = {path: shard for path, shard in shards.items() if not path.exists()}
    print(f"{len(todo)} candidates in {len(shards)} shards, {len(missing)} to do")
    with worker_pool(n_workers) as pool, progress(total=len(missing), desc="shards", unit="shard") as bar:
        for job in as_completed([pool.submit(relax_shard, *item) for item in missing.items()]):
            job.result()
            bar.update()


def structure_of(row: dict) -> Structure:
    return Structure(Lattice(row["lattice"]), row["species"], np.reshape(row["frac_coords"], (-1, 3)))


def references(rows: list[dict]) -> dict[str, tuple[float, float]]:
    """Element -> energy (eV/atom) and volume (Å^3/atom) of its known ground state in the potential."""
    by_id = {row["id"]: row for row in rows}
    found = {}
    for symbol, label in GROUND_STATES.items():
        row = by_id.get(f"{symbol}_{label}")
        if row is None or row["failure"]:
            raise BadInput(f"the ground state {label} of {symbol} is not among the relaxed shards; relax it first")
        cell = structure_of(row)
        found[symbol] = row["energy"], cell.volume / len(cell)
    return found


def reason_to_drop(structure: Structure, formation_energy: float, reference_volume: float) -> str:
    """Why a relaxed structure is unphysical, or ""."""
    own_image = min(structure.lattice.get_lll_reduced_lattice().abc)
    distances = structure.distance_matrix + np.diag([own_image] * len(structure))
    radii = covalent_radii[list(structure.atomic_numbers)]
    if (distances < MIN_DISTANCE_AFTER * (radii[:, None] + radii)).any():
        return "atoms too close"
    if not VOLUME_WINDOW[0] < structure.volume / reference_volume < VOLUME_WINDOW[1]:
        return "volume outside the window"
    if not ENERGY_WINDOW[0] < formation_energy < ENERGY_WINDOW[1]:
        return "energy outside the window"
    return ""


def merge_duplicates(group: list[dict]) -> list[dict]:
    """One of each crystal of a polymorph group, the lowest in energy."""
    kept: list[dict] = []
    for row in sorted(group, key=lambda r: r["formation_energy"]):
        alike = (other for other in kept if other["space_group"] == row["space_group"])
        near = (o for o in alike if abs(o["formation_energy"] - row["formation_energy"]) < DUPLICATE_ENERGY)
        if not any(same_crystal(row["structure"], other["structure"]) for other in near):
            kept.append(row)
    return kept


def assemble(folder: Path, path: Path) -> CrystalTable:
    """Turn the shards into the table that ships, dropping and counting what is unphysical."""
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise BadInput(f"no shards in {folder}; run `python -m lib.build_embedded relax` first")
    rows = [row for shard in paths for row in pq.read_table(shard).to_pylist()]
    elements = references(rows)
    dropped: Counter[str] = Counter()
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in progress(rows, desc="reading relaxed structures"):
        if row["failure"]:
            dropped["no volume predicted" if row["failure"].startswith("no volume") else "not converged"] += 1
            continue
        structure = structure_of(row)
        symbols = [site.specie.symbol for site in structure]
        row["formation_energy"] = row["energy"] - np.mean([elements[s][0] for s in symbols])
        reason = reason_to_drop(structure, row["formation_energy"], sum(elements[s][1] for s in symbols))
        if reason:
            dropped[reason] += 1
            continue
        analyser = SpacegroupAnalyzer(structure, symprec=SYMPREC)
        try:
            row["structure"] = analyser.get_primitive_standard_structure().get_reduced_structure("niggli")
            row["space_group"] = analyser.get_space_group_number()
        except (TypeError, ValueError, AttributeError):
            dropped["no space group found"] += 1
            continue
        groups[formula_of(np.array(row["structure"].atomic_numbers))].append(row)
    kept = []
    for group in progress(groups.values(), desc="merging duplicates"):
        unique = merge_duplicates(group)
        dropped["duplicate"] += len(group) - len(unique)
        kept += sorted(unique, key=lambda r: r["id"])
    about = {
        "description": "Decorated prototypes relaxed with CHGNet: its energies, not those of DFT.",
        **potential_provenance(),
        "fmax_eV_per_A": FMAX,
        "space_groups": f"spglib, symprec {SYMPREC} Å; cells: its standard primitive setting, Niggli-reduced",
        "columns": {
            "id": "system, prototype and decoration",
            "lattice": "rows a, b, c in Å",
            "frac_coords": "x, y, z of each atom in [0, 1)",
            "species": "atomic numbers, atoms sorted by symbol, then x, y, z",
            "formation_energy": "eV/atom against the elements' known ground states in the same potential",
            "space_group": "1..230",
            "prototype": "AFLOW label or parent lattice of the starting structure",
        },
        "element_energies_eV_per_atom": {s: round(e, 6) for s, (e, _) in elements.items()},
        "relaxed": len(rows),
        "dropped": dict(dropped),
    }
    table = CrystalTable.from_structures(
        [row["structure"] for row in kept],
        id=[row["id"] for row in kept],
        formation_energy=[row["formation_energy"] for row in kept],
        space_group=[row["space_group"] for row in kept],
        energy_kind="chgnet-0.3.0 formation energy",
        extra={"prototype": [row["prototype"] for row in kept]},
        about=about,
    )
    table.to_parquet(path)
    print(json.dumps({"structures": len(table), **about["dropped"], "relaxed": len(rows)}))
    return table


@command()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.build_embedded", description=__doc__, formatter_class=Help)
    parser.add_argument("step", choices=["relax", "assemble"])
    parser.add_argument("--workers", type=whole(1), default=2)
    parser.add_argument("--shards", type=Path, default=SHARD_FOLDER)
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    arguments = parser.parse_args()
    if arguments.step == "relax":
        relax_all(arguments.shards, arguments.workers)
    else:
        assemble(arguments.shards, arguments.out)
