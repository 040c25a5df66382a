"""Elements and formulas; the 22 elemental properties that condition the models (paper section 2.1).

The properties are frozen from mendeleev to `lib/data/elements.csv`, which `python -m lib.crystals.elements` writes
again; only that command needs mendeleev. The list is that of the paper's code, whose file has no names: they were found
by comparing its values with mendeleev's (doi:10.5281/zenodo.5233824). Three of its columns are zero for every element;
they are kept, so that shapes agree.
"""

import csv
import functools
import math
import re
import statistics
from pathlib import Path

import numpy as np
from pymatgen.core import Composition, Element

from lib.core.errors import BadInput
from lib.core.files import ROOT, replacing
from lib.core.workers import progress

TABLE = ROOT / "lib" / "data" / "elements.csv"
SYMBOLS = np.array(["X", *(Element.from_Z(z).symbol for z in range(1, 119))])
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS.tolist()) if number}
ALPHABETICAL = np.argsort(np.argsort(SYMBOLS))  # place of each element among the symbols in alphabetical order
N_ELEMENTS = 103  # H to Lr, the width of the paper's one-hot
FEATURES = {
    "atomic_number": "atomic number",
    "ionic_radius_mean": "mean of all ionic radii (pm)",
    "zero_2": "always zero",
    "electronegativity": "Pauling electronegativity",
    "cation_radius_mean": "mean ionic radius of the cations (pm)",
    "zero_5": "always zero",
    "period": "period",
    "anion_radius_mean": "mean ionic radius of the anions (pm)",
    "zero_8": "always zero",
    "group": "group; none in the f block",
    "ionic_radius_sum": "sum of all ionic radii (pm)",
    "is_metal": "1 where a metallic radius is known",
    "atomic_weight": "atomic weight (Da)",
    "oxidation_state_max": "highest main oxidation state",
    "is_alkali": "1 in group 1, hydrogen included",
    "atomic_radius": "atomic radius (pm)",
    "oxidation_state_min": "lowest main oxidation state",
    "is_alkaline_earth": "1 in group 2",
    "mendeleev_number": "Mendeleev number",
    "oxidation_state_mean": "mean main oxidation state",
    "is_halogen": "1 in group 17",
    "atomic_volume": "atomic volume (cm^3/mol), of the gas where the element is one",
}
FEATURE_NAMES = tuple(FEATURES)


def formula_of(species: np.ndarray) -> str:
    """AFLOW's `compound` of a cell: symbols in alphabetical order with explicit counts, such as B6Ta1W1."""
    symbols, counts = np.unique(SYMBOLS[species], return_counts=True)
    return "".join(f"{symbol}{count}" for symbol, count in zip(symbols, counts, strict=True))


def atoms_of(composition: Composition) -> list[int]:
    """Atomic number of each atom of a composition of whole amounts."""
    return [element.Z for element, n in composition.items() for _ in range(round(n))]


def parse_formula(formula: str) -> Composition:
    """A pymatgen Composition with whole-number amounts. Raises BadInput if the formula does not parse, names an unknown
    element or has fractional amounts."""
    if charge := re.search(r"\([IV]+\)", str(formula)):  # which would be read as iodine and vanadium
        raise BadInput(f"formula {formula!r} has {charge[0]}, which reads as an oxidation state; write it without")
    if "@" in str(formula):  # passed over otherwise
        raise BadInput(f"formula {formula!r} has @ in it; write it like TaW2B5")
    try:
        composition = Composition(formula)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"formula {formula!r} does not parse ({error}); write it like TaW2B5") from error
    unknown = [e.symbol for e in composition if not isinstance(e, Element)]
    if unknown:
        raise BadInput(f"formula {formula!r} contains {', '.join(unknown)}, which is no element; write it like TaW2B5")
    if not composition or any(not float(n).is_integer() for n in composition.values()):
        raise BadInput(f"formula {formula!r} needs whole numbers of at least one element; write it like TaW2B5")
    return composition


def usual_formula(formula: str) -> str:
    """A formula in lowest terms, its elements as the literature orders them: TaB2, W2B, TaW2B5.

    That is the order of IUPAC's nomenclature (Red Book 2005, table VI). pymatgen's `reduced_formula`, by which tables
    are grouped, goes by electronegativity and has BW2.
    """
    counts = Composition(parse_formula(formula).reduced_formula).items()
    ordered = sorted(counts, key=lambda item: item[0].iupac_ordering)
    return "".join(f"{element.symbol}{int(n) if n > 1 else ''}" for element, n in ordered)


def element_features() -> np.ndarray:
    """(119, 22) float32 properties by atomic number as the paper feeds them: raw, unknown ones zero, as all are of 0
    and of 104 to 118."""
    return np.nan_to_num(_frozen()).astype(np.float32)


def standardised_features() -> np.ndarray:
    """The properties with mean 0 and standard deviation 1 over the elements for which they are known.

    (119, 22) float32. Unknown values sit at the mean, constant columns stay zero, and the atomic volume enters as its
    logarithm: that of a gas is a thousand times that of a solid, and would leave all solids at one value.
    """
    table = _frozen().copy()
    volume = FEATURE_NAMES.index("atomic_volume")
    table[:, volume] = np.log(table[:, volume])
    known = table[1 : N_ELEMENTS + 1]
    spread = np.nanstd(known, axis=0)
    scaled = (table - np.nanmean(known, axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.nan_to_num(scaled).astype(np.float32)


@functools.cache
def _frozen() -> np.ndarray:
    """(119, 22) float64 with NaN where a value is unknown."""
    table = np.full((len(SYMBOLS), len(FEATURE_NAMES)), np.nan)
    known = np.genfromtxt(TABLE, delimiter=",", skip_header=2)
    table[known[:, 0].astype(int)] = known
    return table


def features_from_mendeleev(number: int) -> dict[str, float | None]:
    """The properties of one element as mendeleev gives them; None where it knows nothing."""
    from mendeleev import element

    atom = element(number)
    ions = [ion for ion in atom.ionic_radii if ion.ionic_radius is not None]
    radii, states = [ion.ionic_radius for ion in ions], atom.oxistates
    return {
        "atomic_number": atom.atomic_number,
        "ionic_radius_mean": _mean(radii),
        "zero_2": 0,
        "electronegativity": atom.en_pauling,
        "cation_radius_mean": _mean([ion.ionic_radius for ion in ions if ion.charge > 0]),
        "zero_5": 0,
        "period": atom.period,
        "anion_radius_mean": _mean([ion.ionic_radius for ion in ions if ion.charge < 0]),
        "zero_8": 0,
        "group": atom.group_id,
        "ionic_radius_sum": math.fsum(radii) if radii else None,
        "is_metal": int(atom.metallic_radius is not None),
        "atomic_weight": atom.atomic_weight,
        "oxidation_state_max": max(states, default=None),
        "is_alkali": int(atom.group_id == 1),
        "atomic_radius": atom.atomic_radius,
        "oxidation_state_min": min(states, default=None),
        "is_alkaline_earth": int(atom.group_id == 2),
        "mendeleev_number": atom.mendeleev_number,
        "oxidation_state_mean": _mean(states),
        "is_halogen": int(atom.group_id == 17),
        "atomic_volume": atom.atomic_volume,
    }


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def freeze(path: Path = TABLE) -> Path:
    """Write the table from the installed mendeleev."""
    import mendeleev

    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        file.write(f"# mendeleev {mendeleev.__version__}, by `python -m lib.crystals.elements`; empty = unknown\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FEATURE_NAMES)
        for number in progress(range(1, N_ELEMENTS + 1), desc="elements"):
            values = features_from_mendeleev(number).values()
            writer.writerow("" if value is None else f"{float(value):.6g}" for value in values)
    return path


if __name__ == "__main__":
    print(f"wrote {freeze()}")
