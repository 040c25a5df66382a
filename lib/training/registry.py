"""The methods and networks that there are: an entry each, which says what fits what and where the code is.

A new method is a file with a class that keeps to :class:`lib.models.interfaces.Method`, and an entry here; a new
network keeps to the call of :mod:`lib.models.unet` and names its representation
(:class:`lib.models.interfaces.Representation`). Parameters of notebooks, rows of tables and checkpoints know them by
these names. A method outside of the package registers itself:

    METHODS["mine"] = MethodEntry("generation", ("periodic",), {"Mine": None}, "my_module:MyMethod")

Classes are named as "module:class" and imported when a model is built, so that to read parameters is quick.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MethodEntry:
    """A method of a task."""

    task: str  # "generation", "modification", or "one_cell": all crystals have one cell and composition
    networks: tuple[str, ...]  # names of the networks that can learn it
    rows: Mapping[str, str | None]  # names of its rows in tables, and the sampler of each (None: the method's first)
    factory: str  # the class; it is given the representation first
    options: Mapping[str, object] = field(default_factory=dict)  # its keyword arguments
    from_spec: tuple[str, ...] = ()  # fields of lib.training.spec.ModelSpec that are further keyword arguments
    x_0_condition: bool = False  # whether the network sees the structure to be modified
    starts_from: str | None = None  # the generation method whose weights may be the start of a model of this one


@dataclass(frozen=True)
class NetworkEntry:
    """A network."""

    # representation, network, sizes: classes; the network is made of a representation and sizes
    representation: str
    network: str
    sizes: str
    # which of "x_0_condition" (see MethodEntry), "euclidean" and "predicts_velocity" (see
    # lib.models.interfaces.Method) are keyword arguments of the network
    options: tuple[str, ...] = ("x_0_condition",)
    prefix: str = ""  # what names of notebook parameters for its sizes begin with
    open_conditions: bool = False  # whether space group and energy may be left open, and sites and templates given


_CELL = ("lib.models.one_cell_state:CellTensors",)  # crystals of one cell and composition
_PERIODIC_OPTIONS = ("x_0_condition", "euclidean", "predicts_velocity")
NETWORKS = {
    "paper": NetworkEntry(
        "lib.models.paper_state:PaperTensors", "lib.models.unet:PaperNet", "lib.models.unet:UNetSizes"
    ),
    "periodic": NetworkEntry(
        "lib.models.periodic_state:PeriodicTensors",
        "lib.models.unet:PeriodicNet",
        "lib.models.unet:UNetSizes",
        _PERIODIC_OPTIONS,
    ),
    "transformer": NetworkEntry(
        "lib.models.orbit_state:OrbitTensors",
        "lib.models.transformer:CrystalTransformer",
        "lib.models.transformer:TransformerSizes",
        prefix="transformer_",
        open_conditions=True,
    ),
    "dimenet": NetworkEntry(
        "lib.models.cell_state:CellStates",
        "lib.models.dimenet:ScoreNet",
        "lib.models.dimenet:DimeNetSizes",
        options=(),
        prefix="dimenet_",
        open_conditions=True,
    ),
    "dimenet_lengths": NetworkEntry(
        "lib.models.cell_state:LengthStates",
        "lib.models.dimenet:ScoreNet",
        "lib.models.dimenet:DimeNetSizes",
        options=(),
        prefix="dimenet_",
        open_conditions=True,
    ),
    "dimenet_sites": NetworkEntry(
        "lib.models.cell_state:SiteStates",
        "lib.models.dimenet:ScoreNet",
        "lib.models.dimenet:DimeNetSizes",
        options=(),
        prefix="dimenet_",
        open_conditions=True,
    ),
    "cryingan": NetworkEntry(*_CELL, "lib.models.cryingan:CryinGan", "lib.models.cryingan:GanSizes", options=()),
    "graph": NetworkEntry(*_CELL, "lib.models.graph:CrystalGraph", "lib.models.graph:GraphSizes", options=()),
    "cryingan_repaired": NetworkEntry(
        *_CELL, "lib.models.cryingan:RepairedCryinGan", "lib.models.cryingan:GanSizes", options=()
    ),
    "crystens": NetworkEntry(
        "lib.models.crystens:CrysTensStates",
        "lib.models.crystens:CrysTensNet",
        "lib.models.crystens:ImageSizes",
        options=(),
    ),
    "unimat": NetworkEntry(
        "lib.models.unimat:UniMatStates", "lib.models.unimat:UniMatNet", "lib.models.unimat:VideoSizes", options=()
    ),
}

_UNETS, _ORBITS = ("paper", "periodic"), ("transformer",)
_FLOW, _DIFFUSION, _TIMES = "lib.methods.flow:FlowMatching", "lib.methods.diffusion:Diffusion", ("num_train_timesteps",)
_GAN, _WRAPPED = "lib.methods.wgan:WassersteinGan", "lib.methods.wrapped:WrappedDiffusion"
_NORMAL, _UNIFORM, _DATA = ({"source": source} for source in ("normal", "uniform", "data"))
METHODS = {
    "ddpm": MethodEntry("generation", _UNETS, {"DDPM": "ddpm", "DDIM": "ddim"}, _DIFFUSION, from_spec=_TIMES),
    "cfm_normal": MethodEntry("generation", _UNETS + _ORBITS, {"CFM N(0,1)": None}, _FLOW, _NORMAL),
    "cfm_uniform": MethodEntry("generation", _UNETS + _ORBITS, {"CFM U(0,1)": None}, _FLOW, _UNIFORM),
    "wrapped": MethodEntry("generation", _ORBITS, {"Wrapped diffusion": None}, _WRAPPED, from_spec=_TIMES),
    "langevin": MethodEntry(
        "generation",
        ("dimenet", "dimenet_lengths", "dimenet_sites"),
        {"Langevin": None, "Predictor-corrector": "predictor_corrector"},
        "lib.methods.langevin:AnnealedLangevin",
    ),
    "regression": MethodEntry("modification", _UNETS, {"Regression": None}, "lib.methods.regression:Regression"),
    # as published, diffusion alone has x_0 as a condition: to a flow x_t and x_0 would say already where it leads,
    # so that it could learn no mean velocity at points that are on no path
    "diffusion": MethodEntry(
        "modification", _UNETS, {"Diffusion": None}, _DIFFUSION, from_spec=_TIMES, x_0_condition=True
    ),
    "cfm": MethodEntry("modification", _UNETS, {"CFM": None}, _FLOW, _DATA),
    "cfm_noise": MethodEntry(
        "modification",
        _ORBITS,
        {"CFM N(0,1) given x_0": None},
        _FLOW,
        _NORMAL,
        x_0_condition=True,
        starts_from="cfm_normal",
    ),
    "wrapped_cell": MethodEntry(
        "one_cell", ("graph",), {"Wrapped diffusion of atoms": None}, _WRAPPED, from_spec=_TIMES
    ),
    "ddpm_cell": MethodEntry(
        "one_cell",
        ("crystens", "unimat"),
        {"DDPM of images": "ddpm", "DDIM of images": "ddim"},
        _DIFFUSION,
        from_spec=_TIMES,
    ),
    # lambda of section 2.4 of Dismai-Bench: 0.1 for alloys
    "wgan": MethodEntry("one_cell", ("cryingan",), {"CryinGAN": None}, _GAN, {"bond_weight": 0.1}),
    "wgan_005": MethodEntry("one_cell", ("cryingan",), {"CryinGAN, lambda 0.05": None}, _GAN, {"bond_weight": 0.05}),
    "wgan_001": MethodEntry("one_cell", ("cryingan",), {"CryinGAN, lambda 0.01": None}, _GAN, {"bond_weight": 0.01}),
    "wgan_repaired": MethodEntry(
        "one_cell", ("cryingan_repaired",), {"CryinGAN, repaired": None}, _GAN, {"bond_weight": 0.1, "repaired": True}
    ),
}


def methods_of(task: str) -> list[str]:
    """Names of a task's methods."""
    return [name for name, entry in METHODS.items() if entry.task == task]


def networks_and_methods(networks: Iterable[str], methods: Iterable[str]) -> list[tuple[str, str]]:
    """Which of some networks and methods go together."""
    methods = list(methods)
    return [(network, method) for network in networks for method in methods if network in METHODS[method].networks]


def model_names(task: str) -> list[str]:
    """NETWORK_METHOD of all that fit, and the same with _long, as the notebooks name what they train for longer."""
    names = ["_".join(model) for model in networks_and_methods(NETWORKS, methods_of(task))]
    return names + [f"{name}_long" for name in names]


def model_rows(
    task: str, networks: Iterable[str], methods: Iterable[str], long_model: str | None = None
) -> dict[str, tuple[str, str | None]]:
    """Rows of a table of match rates -> the model (NETWORK_METHOD) and the sampler of each, those of the model that was
    trained once more, for longer, last."""
    learnt = set(methods)
    rows = {
        f"{label}, {network}": (f"{network}_{method}", sampler)
        for network, method in networks_and_methods(networks, methods_of(task))
        if method in learnt
        for label, sampler in METHODS[method].rows.items()
    }
    return rows | {f"{row}, long": (f"{m}_long", sampler) for row, (m, sampler) in rows.items() if m == long_model}
