"""The benchmark's data sets: made from first principles, or read from the authors' files (10.5281/zenodo.12710372)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pandas as pd

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.stats import mean
from lib.core.streams import numpy_stream
from lib.crystals.exchange import read_structures
from lib.crystals.table import CrystalTable
from lib.datasets.sources.mp20 import fetch
from lib.dismai.alloy import N_SHELLS, PAIR_NAMES, FccSites, to_table, warren_cowley
from lib.dismai.monte_carlo import Chain, trapped

VALIDATION_SHARE = 0.2  # section 2.1
NARROW = 0.1  # of alpha around its mean (section 4.1.1)
WIDTHS = ("wide", "narrow")
TEMPERATURES = (300, 1500)  # K


def alloy_names(widths: Sequence[str] = WIDTHS) -> list[str]:
    """Names of the alloy data sets, such as alloy_300K_narrow."""
    return [f"alloy_{temperature}K_{width}" for temperature in TEMPERATURES for width in widths]


def narrow_rows(alpha: np.ndarray, shells: Sequence[int]) -> np.ndarray:
    """(S,) which snapshots have every alpha of some shells within NARROW of its mean over all.

    Args:
        alpha: (S, 7, 6) of :func:`lib.dismai.alloy.warren_cowley`.
        shells: numbered from 1. The paper shows two and does not say which it filters.

    Raises:
        BadInput: there is no such shell.
    """
    if wrong := set(shells) - set(range(1, N_SHELLS + 1)):
        raise BadInput(f"there is no shell {min(wrong)} of neighbours; choose from 1 to {N_SHELLS}")
    chosen = alpha[:, [shell - 1 for shell in shells]]
    return (np.abs(chosen - chosen.mean(0)) <= NARROW).all((1, 2))


def alloy_set(
    chains: Sequence[Chain], sites: FccSites, name: str, n: int, *, shells: Sequence[int], seed: int
) -> CrystalTable:
    """n snapshots of the chains that are not trapped, as crystals whose column `chain` says where they come from.

    Args:
        name: its end says whether all may be drawn ("wide") or those of :func:`narrow_rows` ("narrow").

    Raises:
        BadInput: fewer than n pass.
    """
    free = [i for i, is_trapped in enumerate(trapped(chains)) if not is_trapped]
    occupation = np.concatenate([chains[i].occupation for i in free])
    chain = np.repeat(free, [len(chains[i].occupation) for i in free])
    passes = np.arange(len(occupation))
    if name.endswith("narrow"):
        passes = np.flatnonzero(narrow_rows(warren_cowley(occupation, sites), shells))
    if len(passes) < n:
        raise BadInput(
            f"{len(passes)} of {len(occupation)} snapshots pass for {name} and {n} are wanted; run more passes, filter "
            "fewer shells, or leave the narrow sets to alloys of 256 atoms"
        )
    rows = numpy_stream(seed, name).permutation(passes)[:n]
    return to_table(occupation[rows], sites, name, {"chain": chain[rows]})


def split(table: CrystalTable, seed: int) -> tuple[CrystalTable, CrystalTable]:
    """Training and validation set at random, 80 : 20: one composition, so that there are no formulas to keep apart."""
    order = numpy_stream(seed, "split").permutation(len(table))
    n = round(VALIDATION_SHARE * len(table))
    return table.take(np.sort(order[n:])), table.take(np.sort(order[:n]))


def read_published(
    *, folder: Path, path: str | Path | None = None, url: str | None = None, sha256: str | None = None
) -> CrystalTable:
    """A file of the authors, or of any program, as a data set: extended XYZ, at a path or fetched once from a url.

    Raises:
        BadInput: it is missing, of another checksum, does not read, or holds structures of different cells or formulas.
    """
    if url and sha256:
        path = fetch(url, sha256, folder / f"dismai_{sha256[:12]}{Path(httpx.URL(url).path).suffix}")
    elif not path:
        raise BadInput("a published data set needs a path, or a url with its sha256; give one of them")
    structures = list(read_structures([ROOT / path]).values())
    first = structures[0]
    for i, structure in enumerate(structures):
        if structure.composition != first.composition or not np.allclose(
            structure.lattice.matrix, first.lattice.matrix, atol=0.01
        ):
            raise BadInput(f"frame {i} of {path} has another cell or formula than frame 0; give one material a file")
    return CrystalTable.from_structures(
        structures,
        id=[f"frame_{i}" for i in range(len(structures))],
        formation_energy=np.full(len(structures), np.nan),
        space_group=[1] * len(structures),
        energy_kind="not given",
    )


# ---- what the chains were --------------------------------------------------------------------------------------------


def chain_table(chains: Sequence[Chain], temperature: float, every: int) -> pd.DataFrame:
    """A line a chain: mean energy and its spread (meV/atom), share of accepted swaps, whether it is trapped, and the
    autocorrelation of the energy at 10, 50 and 500 passes where the chain is that long."""
    lines = []
    for i, (chain, stuck) in enumerate(zip(chains, trapped(chains), strict=True)):
        energy = 1000 * chain.energy
        lines.append(
            {
                "temperature": temperature,
                "chain": i,
                "snapshots": len(energy),
                "energy": energy.mean(),
                "spread": energy.std(),
                "accepted": chain.accepted,
                "trapped": stuck,
                **{f"autocorrelation, {lag} passes": autocorrelation(energy, lag // every) for lag in (10, 50, 500)},
            }
        )
    return pd.DataFrame(lines)


def autocorrelation(values: np.ndarray, lag: int) -> float:
    """Correlation of a series with itself `lag` places later; nan where it is too short or constant."""
    centred = values - values.mean()
    if not 0 < lag < len(values) or centred @ centred < 1e-12:
        return float("nan")
    return float(centred[:-lag] @ centred[lag:] / (centred @ centred))


def order_table(
    occupation: np.ndarray, chain: np.ndarray, sites: FccSites, shells: Sequence[int] = (1, 2)
) -> pd.DataFrame:
    """Means of alpha of each pair in some shells, with 95 % intervals in which chains are the sample."""
    alpha = warren_cowley(occupation, sites)
    lines = []
    for shell in shells:
        for p, pair in enumerate(PAIR_NAMES):
            values = alpha[:, shell - 1, p]
            lines.append({"shell": shell, "pair": pair, **vars(mean(values, chain)), "spread": values.std()})
    return pd.DataFrame(lines)
