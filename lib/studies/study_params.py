"""The parameters of the studies, notebooks 10 to 13, as :mod:`lib.studies.params` has those of the report."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from lib.core.parameters import MODEL_STUDY, Distinct
from lib.studies.names import Potential
from lib.studies.params import RelaxationParams, SamplingParams
from lib.training.registry import NETWORKS


class StudyParams(SamplingParams):
    """10 to 13: the model under study and the targets that it answers."""

    command: ClassVar[str] = "make study PROFILE={run}"
    seeded_as: ClassVar[str | None] = MODEL_STUDY  # of all four, so that what two of them request has one answer

    model: str = "transformer_cfm_uniform"  # of 04
    n_targets: int = Field(200, ge=1)  # of those of 06
    timeout_seconds: float = Field(20.0, gt=0)

    @field_validator("model")
    @classmethod
    def _may_be_asked_for_less(cls, value: str) -> str:
        networks = [name for name, entry in NETWORKS.items() if entry.open_conditions]
        if value.partition("_")[0] not in networks:
            raise ValueError(f"must be told all conditions; choose a model of {', '.join(networks)}")
        return value


class TellingParams(StudyParams):
    """10: what a model must be told."""

    notebook: ClassVar[str] = "10_what_must_be_told"

    n_answers: int = Field(5, ge=1)  # to each composition alone
    potential: Potential = "chgnet"
    n_by_energy: int = Field(200, ge=1)  # targets whose template a potential chooses by the asked energy
    templates_by_energy: int = Field(8, ge=1)  # of so many


class ControlParams(StudyParams, RelaxationParams):
    """11: whether answers have the space group and the energy that were asked for."""

    notebook: ClassVar[str] = "11_does_it_obey"

    templates_by_energy: int = Field(8, ge=1)  # as in 10
    n_relax: int = Field(8, ge=1)  # targets whose structures are relaxed freely
    n_energy: int = Field(12, ge=1)  # targets that several energies are asked for
    energy_offsets: Distinct[float] = Field([-0.1, 0.0, 0.1, 0.2, 0.3], min_length=2)  # eV/atom


class ImprovementParams(StudyParams, RelaxationParams):
    """12: modification against generation, substitution and relaxation."""

    notebook: ClassVar[str] = "12_modification"

    n_pairs: int = Field(150, ge=1)
    more_pairs_path: Path | None = None  # a file as mp20_path, whose new polymorphs are judged by, too
    n_relax_pairs: int = Field(100, ge=1)
    rattle: float = Field(0.3, gt=0)  # Å, standard deviation of what displaces the atoms of x_0 along each axis
    rattle_strain: float = Field(0.05, ge=0)  # standard deviation of the components of its cell's strain
    resolution: float = Field(0.01, gt=0)  # eV/atom: smaller differences of one potential are not counted


class AblationParams(StudyParams):
    """13: what each part of the model is worth, and the best of several answers."""

    notebook: ClassVar[str] = "13_ablation"

    ablation: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = {
        # row -> what it changes, see lib.studies.study.variants
        "normal noise": {"model": "transformer_cfm_normal"},
        "network of the paper": {"model": "paper_cfm_uniform"},
        "loss of diffusion (DDIM)": {"model": "paper_ddpm", "sampler": "ddim", "against": "network of the paper"},
        "network not told the energy": {"told": "composition, group, energy; network not told the energy"},
        "network not told the group": {"told": "composition, group, energy; network not told the group"},
        "no energy": {"told": "composition, group"},
        "no group": {"told": "composition, energy"},
        "no symmetry projection": {"told": "composition, group, energy; no sites"},
        "sites of the target itself": {"told": "composition, group, energy; the target's own sites"},
        "the most alike template": {"told": "composition, group, energy; the most alike template"},
        "template neither seen nor started from": {"see_templates": False},
        "start from noise": {"template_start": 0.0},
        "guidance 2": {"guidance": 2.0},
        "second order": {"sampler": "heun", "steps": 25},
        "no velocity scaling": {"velocity_scale": 0.0},
        "20 steps": {"steps": 20},
        "5 steps": {"steps": 5},
    }
    n_best: int = Field(60, ge=1)  # targets for which several choices of sites are drawn
    n_best_sites: int = Field(3, ge=1)
    n_bare: int = Field(6, ge=1)  # targets without a template whose sites are enumerated
    n_assignments: int = Field(12, ge=1)  # choices of sites for each of them
    n_relaxed: int = Field(2, ge=1)  # of which the potential relaxes so many
    judge_crystals: int = Field(40, ge=1)  # training crystals that a judge of such choices learns from
    judge_assignments: int = Field(12, ge=1)  # choices of sites for each of them
    judge: Literal["the model's loss", "a learnt judge"] = "a learnt judge"  # that the score is of
    potential: Potential = "chgnet"
