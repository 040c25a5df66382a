"""The parameters of the score model's notebooks, 20 to 23, as :mod:`lib.studies.params` has those of the others."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lib.core.parameters import Params, Positive, Several


class GraphParams(Params):
    """20: the symmetric multigraph and the crystals of the score model."""

    notebook: ClassVar[str] = "20_score_graph"

    cutoff: float = Field(5.0, gt=0, le=12)  # Å
    n_crystals: int = Field(500, ge=1)  # whose graphs are measured
    timed_crystals: int = Field(64, ge=1)


class ScoreTrainParams(Params):
    """21: the score model, its training and its sampling."""

    notebook: ClassVar[str] = "21_score_model"
    # what :func:`lib.studies.model_plan.trainers` asks of every notebook that trains, and this one leaves as it is
    methods: ClassVar[list[str]] = ["langevin"]
    epochs: ClassVar[None] = None
    long_model: ClassVar[None] = None
    init_weights: ClassVar[None] = None
    num_train_timesteps: ClassVar[int] = 1000

    # 22 reads the first two; dimenet_lengths has the paper's chart of the cell
    networks: Several[Literal["dimenet", "dimenet_sites", "dimenet_lengths"]] = ["dimenet", "dimenet_sites"]
    min_group: int = Field(16, ge=1, le=230)  # 16: neither monoclinic nor triclinic; 1: all
    max_crystals: int | None = Field(None, ge=1)  # of the training set
    finished: Path | None = Path("lib/weights/embedded")  # folder; a model whose file is there is taken, not trained
    dimenet_width: int = Field(32, ge=4, le=1024)
    dimenet_out: int = Field(32, ge=4, le=1024)
    dimenet_interaction: int = Field(16, ge=4, le=1024)
    dimenet_basis: int = Field(8, ge=2, le=128)
    dimenet_blocks: int = Field(3, ge=1, le=16)
    dimenet_radial: int = Field(6, ge=1, le=32)
    dimenet_cutoff: float = Field(5.0, gt=1, le=12)  # Å
    dimenet_most_edges: int = Field(32, ge=12)
    dimenet_most_near: int = Field(12, ge=6)
    dimenet_cell: Literal["least squares", "mean"] = "least squares"
    steps: int = Field(1500, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0, le=1)
    warmup_steps: int = Field(100, ge=0)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    validate_every: int = Field(250, ge=1)
    checkpoint_every: int = Field(250, ge=1)
    gpus: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = 1
    n_targets: int = Field(60, ge=1)  # validation crystals that claims are tested on
    inference_steps: int = Field(100, ge=1)  # calls of the network
    claim_steps: Several[Positive] = [50, 100, 200]
    timeout_seconds: float = Field(20.0, gt=0)


class ScoreTableParams(Params):
    """22: how often the score model finds crystals, by what it is told."""

    notebook: ClassVar[str] = "22_score_tables"

    min_group: int = Field(16, ge=1, le=230)
    n_targets: int = Field(200, ge=1)
    sampler: Literal["langevin", "predictor_corrector"] = "langevin"
    inference_steps: int = Field(200, ge=1)  # calls of the network
    batch_size: int = Field(64, ge=1)
    random_draws: int = Field(20, ge=1)  # of which the best spaced stands for chance
    timeout_seconds: float = Field(20.0, gt=0)


class ScoreFindParams(Params):
    """23: known crystals that the score model finds again, and new ones beside the hull."""

    notebook: ClassVar[str] = "23_score_finds"

    # csv or parquet of the Materials Project with e_above_hull, such as data/mpts_52/val; without it few crystals of
    # Table 2 are at hand, and known phases are those of the run's own data
    observed: Path | None = None
    min_group: int = Field(16, ge=1, le=230)
    most_atoms: int = Field(20, ge=1)  # of a crystal to be found, and of a new one that is relaxed
    potential: str = "chgnet"
    max_steps: int = Field(300, ge=1)  # of a relaxation
    sampler: Literal["langevin", "predictor_corrector"] = "langevin"
    inference_steps: int = Field(200, ge=1)  # calls of the network
    batch_size: int = Field(64, ge=1)
    timeout_seconds: float = Field(20.0, gt=0)
    # Table 2
    levels: Several[Literal["letters", "composition", "sites"]] = ["composition", "sites"]
    n_known: int = Field(36, ge=1)
    above_hull: float = Field(0.02, ge=0)  # eV/atom
    samples: int = Field(50, ge=1)  # of each crystal to be found
    position_choices: int = Field(5, ge=1)  # of them as many different ones of positions, told the composition
    relaxed: int = Field(5, ge=1)  # of the samples of a crystal those that are lowest in energy
    # Table 3
    systems: Several[Literal["Cu-Si-K", "Fe-Ta-Sn", "Sb-Ta-V", "Al-K-Pd"]] = ["Fe-Ta-Sn"]
    new_samples: int = Field(4, ge=1)  # of each choice of sites
    new_relaxed: int = Field(4, ge=1)  # of a system and way of making them
    prototypes: int = Field(4, ge=1)  # of each composition that are looked at
    ratios: int = Field(3, ge=1, le=7)  # compositions of binaries, each in both orders
