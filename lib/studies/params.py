"""The parameters of each notebook and their defaults, which the notebook's first code cell shows.

The defaults are those of the profile `quick`; `params/<profile>/NN_name.yaml` holds what differs from them.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from lib.core.files import ROOT
from lib.core.parameters import Distinct, InOrder, LowBeforeHigh, Params, Positive, Several
from lib.studies.names import (
    Formula,
    GenerationMethod,
    GenerationModel,
    ModificationMethod,
    ModificationModel,
    Network,
    Potential,
    PotentialOrNone,
)
from lib.training.registry import METHODS, NETWORKS, methods_of, networks_and_methods


class QuickstartParams(Params):
    """00: a request to the weights that ship with the project, in the words of :mod:`lib.generation.generate`."""

    notebook: ClassVar[str] = "00_quickstart"

    formulas: Several[Formula] = ["TaW2B5"]
    space_group: str = "any"
    energy: str = "lowest"
    z: str = "1"  # formula units in the primitive cell
    n: int = Field(8, ge=1)  # structures of each formula
    weights: Path | None = None  # exported by lib.ship; null for those that ship with the project
    inference_steps: int | None = Field(None, ge=1)  # null for what the weights name
    relax: PotentialOrNone = "chgnet"


class IngestParams(Params):
    """01: where crystals come from and the funnel of paper section 2.1."""

    notebook: ClassVar[str] = "01_aflow_ingest"

    source: Literal["embedded", "aflow", "mp20", "files", "entries"] = "embedded"
    aflow_url: str = Field("https://aflow.org/API/aflux/", pattern="^https?://")
    aflow_contact: str | None = None  # an address at which AFLOW's administrators reach you
    aflow_species: Distinct[str] = []  # entries made of these elements alone
    aflow_inclusive: bool = False  # instead, those that hold all of these, and whatever else
    aflow_max_species: int = Field(3, ge=1)  # most elements in one entry
    # asked of AFLOW: the hull needs smaller cells than the training set
    aflow_sites: Annotated[tuple[Positive, Positive], InOrder] = (1, 60)
    aflow_catalogs: Several[str] = ["LIB2", "LIB3"]
    # energies of other functionals, or with another kind of +U, do not mix with these
    aflow_dft_type: str = Field("PAW_PBE", pattern=r"^\w+$")
    aflow_ldau_type: int = Field(0, ge=0, le=4)  # VASP's LDAUTYPE; 0: without +U
    aflow_page_size: int = Field(1000, ge=1, le=10000)
    aflow_deepest_page: int = Field(20, ge=1)  # longer queries are split
    aflow_max_pages: int | None = Field(None, ge=1)  # of each query, for a trial
    aflow_connections: int = Field(4, ge=1, le=16)
    aflow_pause: float = Field(0.2, ge=0)  # seconds between the starts of two requests
    aflow_shard_size: int = Field(50_000, ge=1)  # entries of a part, which is made in one piece
    mp20_path: Path | None = None
    mp20_url: str | None = Field(None, pattern="^https?://")
    mp20_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    # the column of energies: heat_ref of perov-5; energy_per_atom, above the lowest, of carbon-24
    mp20_energy: Literal["formation_energy_per_atom", "heat_ref", "heat_all", "energy_per_atom"] = (
        "formation_energy_per_atom"
    )
    mp20_test_path: Path | None = None  # an official test split: never learnt from, what the tables are measured on
    files_folder: Path | None = None
    files_energies: Path | None = None
    files_energy: Literal["formation_energy_per_atom", "total_energy"] = "formation_energy_per_atom"
    files_references: Path | None = None  # element, eV/atom; without it the source's own pure elements
    entries_path: Path | None = None  # json or json.gz of pymatgen's ComputedStructureEntry
    min_sites: int = Field(4, ge=1)
    max_sites: int = Field(60, ge=1, le=60)
    energy_window: Annotated[tuple[float, float], LowBeforeHigh] = (-5.0, 5.0)
    group_rule: Literal["size", "size_and_gap"] = "size"  # size_and_gap with groups of 5: as in the paper's code
    min_group_size: int = Field(7, ge=1)
    min_group_gap: float = Field(0.01, gt=0)  # eV a cell between two neighbours of a group; for size_and_gap
    max_group_size: int | None = Field(None, ge=2)  # of larger groups, so many at equal steps of rank; null: all
    rare_fraction: float = Field(0.01, ge=0, lt=1)
    checkup_pairs: int = Field(500, ge=1)  # most pairs that the check-up compares for duplicates
    checkup_crystals: int = Field(10, ge=1)  # an element in fewer crystals is named in the check-up

    @model_validator(mode="after")
    def _source_is_complete(self) -> Self:
        needed = {
            "aflow": ["aflow_species"],
            "mp20": ["mp20_path"] if self.mp20_url is None else ["mp20_url", "mp20_sha256"],
            "files": ["files_folder", "files_energies"],
            "entries": ["entries_path"],
        }
        for name in needed.get(self.source, []):
            if not getattr(self, name):
                raise ValueError(f"source '{self.source}' needs the parameter '{name}'")
        if self.files_references and self.files_energy != "total_energy" and self.source != "entries":
            raise ValueError("'files_references' is for 'files_energy: total_energy'; formation energies need none")
        if self.max_group_size is not None and self.max_group_size < self.min_group_size:
            raise ValueError("'max_group_size' must not be below 'min_group_size'")
        if self.min_sites > self.max_sites:
            raise ValueError("'min_sites' must not exceed 'max_sites'")
        return self


class DatasetParams(Params):
    """02: split and pair sampling of paper section 2.2."""

    notebook: ClassVar[str] = "02_polymorph_dataset"

    shards: int | None = Field(None, ge=1)  # in which symmetry is found, each a job of its own; null: as many as fit
    validation_fraction: float = Field(0.2, gt=0, lt=1)
    test_fraction: float = Field(0.2, ge=0, lt=1)  # 0: the validation set is the test set, as in the paper
    drawn_first: Literal["validation", "test"] = "validation"  # the other set is drawn from what is left
    split_by: Literal["formula", "prototype"] = "formula"  # what no two sets share; prototype: neither of the two
    left_out: Distinct[Formula] = []  # formulas whose crystals are in none of the sets
    pairs_per_group: int = Field(8, ge=2)
    max_sites_share: float = Field(1.0, gt=0, le=1)  # of an epoch's pairs that one number of atoms may have; 1: any
    leave_out_matching: bool = False  # pairs whose two structures match already

    @model_validator(mode="after")
    def _some_is_left_to_train(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("'validation_fraction' and 'test_fraction' together must stay below 1")
        return self


class NetworkParams(Params):
    """UNet sizes and A.3's training parameters, for every notebook that trains."""

    pairs_per_group: int = Field(8, ge=2)
    max_sites_share: float = Field(1.0, gt=0, le=1)  # of an epoch that one number of atoms may have; 1: any
    model_channels: int = Field(32, ge=8, le=4096, multiple_of=8)  # for group normalisation
    channel_mult: list[Annotated[int, Field(ge=1, le=64)]] = Field([1, 2], min_length=1, max_length=7)  # of 64 rows
    num_res_blocks: int = Field(1, ge=1, le=64)
    attention_resolutions: Distinct[Positive] = [1, 2]
    condition_channels: int = Field(24, ge=4, le=4096)
    condition_features: int = Field(64, ge=1, le=4096)
    steps: int = Field(300, ge=0)  # 0: the weights of init_weights as they are
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(2e-3, gt=0, le=1)
    warmup_steps: int = Field(50, ge=0)
    ema_decay: float = Field(0.99, ge=0, lt=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False  # torch.compile: a minute at the start of each model, less for each step
    validate_every: int = Field(50, ge=1)
    checkpoint_every: int = Field(500, ge=1)


class PbcLossParams(NetworkParams):
    """03: the PBC-aware loss of 3.3 and A.4, and what it does to the regression model."""

    notebook: ClassVar[str] = "03_pbc_loss"

    norm: Literal["l1", "l2"] = "l2"
    norm_order: float = Field(-32.0, lt=0)
    n_grid: int = Field(101, ge=5, le=2001)
    steps: int = Field(125, ge=1)
    validate_every: int = Field(125, ge=1)
    n_targets: int = Field(200, ge=1)


class TrainParams(NetworkParams):
    """What 04 and 05 share."""

    networks: Several[Network] = ["paper", "transformer"]  # the transformer is for cfm and wrapped
    methods: Several[str]
    epochs: int | None = Field(None, ge=1)
    num_train_timesteps: int = Field(1000, ge=2, le=100_000)
    transformer_width: int = Field(64, ge=32, le=8192, multiple_of=4)
    transformer_blocks: int = Field(4, ge=1, le=256)
    transformer_heads: int = Field(4, ge=1, le=256)
    transformer_templates: bool = True  # whether it is shown templates, and learns what they are worth
    transformer_forget: float = Field(0.1, ge=0, lt=1)  # share of crystals it is not told a condition of
    long_model: str | None = None  # NETWORK_METHOD of the model that is trained once more, for longer
    long_steps: int | None = Field(None, ge=1)
    validate_matches: int = Field(0, ge=0)  # validation crystals that are sampled and matched with each validation
    keep_raw: bool = False  # keep the last step's weights beside their average
    gpus: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = 1  # cards that share each batch
    init_weights: Path | None = None  # a finished model (.safetensors) that the model of its name starts from
    finished: Path | None = Path("lib/weights/embedded")  # folder; a model whose file is there is taken, not trained

    @model_validator(mode="after")
    def _long_model_is_trained(self) -> Self:
        if (self.long_model is None) != (self.long_steps is None):
            raise ValueError("'long_model' and 'long_steps' go together")
        if not self.steps and self.init_weights is None:
            raise ValueError("'steps' is 0, which keeps the weights of 'init_weights' as they are; name some, or train")
        models = ["_".join(model) for model in networks_and_methods(self.networks, self.methods)]
        if not models:
            raise ValueError("none of 'networks' learns any of 'methods'; transformers learn flows and 'wrapped'")
        if self.transformer_width % self.transformer_heads:
            raise ValueError("'transformer_width' must be a multiple of 'transformer_heads'")
        if self.long_model not in [None, *models]:
            raise ValueError(f"'long_model' is {self.long_model!r}; choose one of {', '.join(models)}, or null")
        return self


class TrainGenerationParams(TrainParams):
    """04: four methods of paper section 5 on the generation task (DDPM and DDIM share weights)."""

    notebook: ClassVar[str] = "04_train_generation"

    methods: Several[GenerationMethod] = ["ddpm", "cfm_normal", "cfm_uniform"]
    steps: int = Field(1000, ge=0)
    choice_crystals: int = Field(150, ge=20)  # of the training set, from which the choice of template is learnt
    compare_from_nothing: bool = False  # train the model of init_weights without them, too
    learning_curve: Distinct[Annotated[float, Field(gt=0, lt=1)]] = []  # shares of the training set to train on as well
    curve_targets: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _curve_has_a_model(self) -> Self:
        if self.compare_from_nothing and self.init_weights is None:
            raise ValueError("'compare_from_nothing' compares with a start from weights; give 'init_weights'")
        models = networks_and_methods(self.networks, self.methods)
        transformers = [model for model in models if NETWORKS[model[0]].open_conditions]
        if (self.learning_curve or self.compare_from_nothing) and not transformers:
            raise ValueError("'learning_curve' trains the transformer; add it to 'networks', and a 'cfm' method")
        return self


class NoiseParams(TrainParams):
    """14: flow matching from uniform and from normal noise, with several seeds."""

    notebook: ClassVar[str] = "14_uniform_or_normal"
    command: ClassVar[str] = "make study PROFILE={run}"

    networks: Several[Network] = ["paper"]
    methods: Several[GenerationMethod] = ["cfm_uniform", "cfm_normal"]
    seeds: Annotated[Several[int], Field(min_length=2)] = [1, 2, 3]
    finished: Path | None = None
    n_targets: int = Field(200, ge=1)
    inference_steps: int = Field(100, ge=1)
    timeout_seconds: float = Field(20.0, gt=0)


class TrainModificationParams(TrainParams):
    """05: the paper's three methods on the modification task, and the transformer's."""

    notebook: ClassVar[str] = "05_train_modification"

    methods: Several[ModificationMethod] = ["regression", "diffusion", "cfm", "cfm_noise"]
    steps: int = Field(600, ge=0)


class SamplingParams(Params):
    """How a trained model is sampled, in 06, 07 and 10 to 13."""

    inference_steps: int = Field(50, ge=1)
    velocity_scale: float = Field(3.0, ge=0)
    template_start: float = Field(0.8, ge=0, lt=1)  # 0: from noise, as the paper does
    batch_size: int = Field(256, ge=1)


class MatchParams(SamplingParams):
    """06: Tables 1 and 2."""

    notebook: ClassVar[str] = "06_match_tables"

    n_targets: int = Field(200, ge=1)
    networks: Several[Network] = ["paper", "transformer"]  # as in 04
    methods: Several[GenerationMethod] = ["ddpm", "cfm_normal", "cfm_uniform"]  # as in 04
    modification_networks: Several[Network] = ["paper", "transformer"]  # as in 05
    modification_methods: Several[ModificationMethod] = ["regression", "diffusion", "cfm", "cfm_noise"]  # as in 05
    long_model: GenerationModel | None = None  # as in 04
    modification_long_model: ModificationModel | None = None  # as in 05
    inference_steps: int = Field(100, ge=1)
    entrants: dict[str, str] = {}  # row of Table 1 -> lib.entrants.NAME, or structures of any program
    steps_scan: Several[Positive] = [5, 20, 50]
    timeout_seconds: float = Field(20.0, gt=0)  # for one pair of structures to match

    @field_validator("entrants")
    @classmethod
    def _entrants_exist(cls, value: dict[str, str]) -> dict[str, str]:
        modules = sorted(path.stem for path in (ROOT / "lib" / "entrants").glob("[a-z]*.py"))
        own = {"random", "substitution"}.union(*(METHODS[name].rows for name in methods_of("generation")))
        for row, entrant in value.items():
            if row.split(", ")[0] in own:
                raise ValueError(f"{row!r} reads like a row of the table's own; choose another name")
            module = entrant.removeprefix("lib.entrants.")
            if module not in modules if module != entrant else not (ROOT / entrant).exists():
                known = ", ".join(f"lib.entrants.{name}" for name in modules)
                raise ValueError(f"{entrant!r} of {row!r} is no file, zip file or folder and no method ({known})")
        return value


class InferenceParams(SamplingParams):
    """07: the grid of 7.1."""

    notebook: ClassVar[str] = "07_inference_wbta"

    formulas: Several[Formula] = ["TaWB6", "TaW2B5", "Ta2WB5"]
    n_energies: int = Field(21, ge=1, le=1001)
    experiments: Several[tuple[NonNegativeFloat, PositiveFloat]] = [(0.0, 0.01), (0.0, 0.1), (1.0, 0.01)]  # gap, step
    models: Annotated[dict[Literal["ddim", "cfm_uniform"], GenerationModel], Field(min_length=1)] = {
        # of 04, by Table 3's method
        "ddim": "paper_ddpm",
        "cfm_uniform": "transformer_cfm_uniform",
    }
    space_groups: Several[Annotated[int, Field(ge=1, le=230)]] | None = None
    baselines: Distinct[Literal["random", "symmetric", "substitution"]] = ["random", "substitution"]
    max_requests: int | None = Field(360, ge=1)
    modification_models: Several[ModificationModel] = [  # of 05
        "paper_regression",
        "paper_cfm",
        "transformer_cfm_noise",
    ]
    max_modifications: int | None = Field(60, ge=1)
    potential: Potential = "chgnet"


class RelaxationParams(Params):
    """How structures are relaxed, in 08, 11 and 12."""

    potential: Potential = "chgnet"
    fmax: float = Field(0.1, gt=0)  # eV/Å
    max_steps: int = Field(100, ge=1)


class PreoptimiseParams(RelaxationParams):
    """08: pre-relaxation with a potential."""

    notebook: ClassVar[str] = "08_preoptimise"

    relax_cell: bool = True
    max_structures: int | None = Field(36, ge=1)
    shake_within: float = Field(0.1, ge=0)  # eV/atom of the lowest of the formula: what is tested for a saddle
    finer: Potential | None = None  # a slower potential that relaxes the best once more
    n_finer: int = Field(50, ge=1)


class HullParams(Params):
    """09: convex hull, Table 3, VASP inputs and outputs."""

    notebook: ClassVar[str] = "09_vasp_hull_analysis"

    reference_energies: Path | None = None
    n_candidates: int = Field(6, ge=0)
    vasp_folder: Path | None = None
