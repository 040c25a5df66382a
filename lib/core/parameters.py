"""The parameters of notebooks: what every notebook has, how values are checked, and the profiles that hold them."""

import ast
import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.strict_yaml import read_yaml

PROFILES = ROOT / "params"
RETIRED = {"n_bootstrap"}  # names that users' parameter files may still hold; they change nothing
REPORT, STUDY = LISTS = ("notebooks", "study")  # in `_common.yaml`, what `make report` and `make study` run
STUDIES = ["10_what_must_be_told", "11_does_it_obey", "12_modification", "13_ablation"]
MODEL_STUDY = "10_model_study"  # what these were once; users' profiles and runs may still have it
NOW_FOUR = f"{MODEL_STUDY} has become four notebooks, {', '.join(STUDIES)}, which `make study` runs"
LARGEST = 10**9  # of whole numbers in parameters: of steps, crystals, atoms


class Params(BaseModel):
    """The parameters that every notebook has; :mod:`lib.studies.params` adds those of each."""

    model_config = {"extra": "forbid", "frozen": True, "allow_inf_nan": False}
    notebook: ClassVar[str]
    command: ClassVar[str] = "make report PROFILE={run}"  # what makes these numbers again
    seeded_as: ClassVar[str | None] = None  # the name that seeds the notebook's random numbers; None for its own

    run: str = "quick"
    seed: int = Field(42, ge=0)
    n_workers: int = Field(2, ge=1, le=1024)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _without_names_that_change_nothing(cls, values: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in values.items() if name not in {*LISTS, *RETIRED}}

    @field_validator("run")
    @classmethod
    def _a_folder_of_its_own(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", value):
            raise ValueError("it names no folder of its own in outputs; choose letters, digits, '_', '-' and '.'")
        if value.lower() == "published":
            raise ValueError("outputs/published holds what `make publish` copies there; choose another name")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _means_what_it_says(cls, value: object, about: ValidationInfo) -> object:
        """Refuse what would be taken for something else: true for 1, an empty path for the whole folder."""
        kinds = str(cls.model_fields[about.field_name].annotation)
        for part in _parts(value):
            if isinstance(part, bool) and "bool" not in kinds and "Any" not in kinds:
                raise ValueError(f"{str(part).lower()} is no value here (YAML reads yes, no, on and off so)")
            if isinstance(part, str) and not part.strip():
                raise ValueError("an empty text is no value; write null for none")
            if isinstance(part, int) and abs(part) > LARGEST and about.field_name != "seed":
                raise ValueError(f"{part} is beyond all sense; give at most {LARGEST:,}")
        return value


def _parts(value: object) -> Iterator[object]:
    """The values that lists and mappings hold, at any depth."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    else:
        yield value


P = TypeVar("P", bound=Params)
T = TypeVar("T")


def _each_once(values: list[T]) -> list[T]:
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{twice[0]!r} stands twice; keep one")
    return values


def _in_order(limits: tuple[T, T]) -> tuple[T, T]:
    if limits[0] > limits[1]:
        raise ValueError("the first is the lower limit and must not exceed the second")
    return limits


def _low_before_high(limits: tuple[T, T]) -> tuple[T, T]:
    if limits[0] >= limits[1]:
        raise ValueError("the first is the lower limit and must lie below the second")
    return limits


InOrder, LowBeforeHigh = AfterValidator(_in_order), AfterValidator(_low_before_high)
Positive = Annotated[int, Field(ge=1)]
Distinct = Annotated[list[T], AfterValidator(_each_once)]
Several = Annotated[list[T], Field(min_length=1), AfterValidator(_each_once)]


def validated(model: type[P], values: Mapping[str, object]) -> P:
    """The values as an instance of `model`. Raises BadInput if a name is unknown or a value impossible; the message
    names the key, what it got and what it allows."""
    try:
        return model(**values)
    except ValidationError as failure:
        raise BadInput("; ".join(_in_words(model, error) for error in failure.errors())) from failure


def _in_words(model: type[Params], error: Mapping) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, model.model_fields, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"it knows {', '.join(sorted(model.model_fields))}"
        return f"parameter '{key}' is not known in {model.notebook}; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if not key:  # a check of several parameters together
        return f"{model.notebook}: {message}"
    return f"parameter '{key}' of {getattr(model, 'notebook', 'the run')} got {error['input']!r}: {message}"


def literal_assignments(cells: Iterable[str]) -> set[str]:
    """Names assigned in the parameter cells: those cells that hold nothing but assignments of literals to names.

    A cell that assigns `run` is the notebook's own. It replaces those before it, since in JupyterLab a cell with a
    misspelt name is corrected and run again. papermill's cell, which begins with "# Parameters", adds to it.
    """
    names: set[str] = set()
    for source in cells:
        try:
            statements = ast.parse(source).body
        except SyntaxError:
            continue
        if statements and all(isinstance(s, ast.Assign) and _is_literal(s.value) for s in statements):
            assigned = {target.id for s in statements for target in s.targets if isinstance(target, ast.Name)}
            anew = "run" in assigned and not source.lstrip().startswith("# Parameters")
            names = assigned if anew else names | assigned
    return names


def _is_literal(value: ast.expr) -> bool:
    infinite = isinstance(value, ast.Call) and ast.unparse(value.func) == "float"  # as papermill writes inf and nan
    return infinite or isinstance(value, (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.UnaryOp))


def notebook_parameters(notebook: str, profile: str) -> dict[str, object]:
    """The parameters in which a profile differs from the defaults of a notebook, as papermill takes them.

    They stand in `params/<profile>/_common.yaml`, and in the notebook's own file where there is one. Raises BadInput if
    the profile is missing, a file does not read strictly (:func:`lib.core.strict_yaml.read_yaml`), or has an impossible
    value of a parameter that every notebook has.
    """
    own = PROFILES / profile / f"{notebook}.yaml"
    values = _common(profile) | (read_yaml(own) if own.exists() else {})
    values = {name: value for name, value in values.items() if name not in LISTS}
    validated(Params, {name: values[name] for name in Params.model_fields if name in values})
    return values


def profile_notebooks(profile: str, known: Collection[str], which: str = REPORT) -> list[str]:
    """The notebooks that `make report` or `make study` runs with a profile, as a list in its `_common.yaml` names them.

    `known` are the names of all notebooks, `which` is one of LISTS. A profile without a list for the study runs all of
    STUDIES. Raises BadInput if the profile or its list is missing, or the list or a file of the profile names no
    notebook.
    """
    path, every = PROFILES / profile / "_common.yaml", ", ".join(known)
    chosen = _common(profile).get(which, STUDIES if which == STUDY else None)
    if not isinstance(chosen, list) or not chosen:
        raise BadInput(f"{path} lists no notebooks to run; add the line '{which}: [{every}]' with those you want")
    for name, where in [*((name, path) for name in chosen), *own_files(profile).items()]:
        if name == MODEL_STUDY:
            raise BadInput(f"{where}: {NOW_FOUR}; list them in a line 'study: [...]', each with its own file")
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            raise BadInput(f"{where}: there is no notebook {name!r}; name {close[0] if close else f'one of {every}'}")
    return chosen


def own_files(profile: str) -> dict[str, Path]:
    """The files of a profile by their notebooks. Raises BadInput if one has an ending that is not read."""
    files = {
        file.stem: file
        for file in sorted((PROFILES / profile).iterdir())
        if not file.name.startswith((".", "_common.yaml"))
    }
    for file in files.values():
        if file.suffix != ".yaml" and re.search(r"\.ya?ml\b", file.name, re.IGNORECASE):
            raise BadInput(f"{file} is not read; name it {file.name.split('.')[0]}.yaml, or move it away")
    return {name: file for name, file in files.items() if file.suffix == ".yaml"}


def _common(profile: str) -> dict[str, object]:
    known = sorted(path.name for path in PROFILES.iterdir())
    if profile not in known:
        raise BadInput(f"profile {profile!r} is not known; choose one of {', '.join(known)}")
    return read_yaml(PROFILES / profile / "_common.yaml")
