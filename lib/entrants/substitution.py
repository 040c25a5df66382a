"""Substitution into the most similar training crystal of the asked group, else of any group."""

from pathlib import Path

from pymatgen.core import Structure

from lib.crystals.table import CrystalTable
from lib.retrieval.templates import ElementRanking


def fit(training: CrystalTable, validation: CrystalTable, *, folder: Path, **_) -> None:
    """A lookup has nothing to tune, so that both tables may serve it."""
    CrystalTable.join([training, validation], about={}).to_parquet(folder / "templates.parquet")


def sample(requests: CrystalTable, *, folder: Path, **_) -> list[Structure | None]:
    """The template of the asked group where there is one."""
    nearest = ElementRanking(CrystalTable.from_parquet(folder / "templates.parquet"))
    grouped, free = (nearest.substitution(requests, use_space_group=group) for group in (True, False))
    return [one or other for one, other in zip(grouped, free, strict=True)]
