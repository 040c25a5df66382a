"""Types of the parameters that name something: a method, a model, a potential, a formula; unknown ones are refused."""

from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import AfterValidator

from lib.training.registry import NETWORKS, methods_of, model_names


def _one_of(names: Callable[[], Iterable[str]]) -> AfterValidator:
    """A check that a text is among some names, which are asked for when a value is checked."""

    def checked(value: str) -> str:
        if value not in names():
            raise ValueError(f"is not known; choose one of {', '.join(names())}")
        return value

    return AfterValidator(checked)


def _potential(name: str) -> str:
    from lib.energies.potentials import potential_class  # here, as to read parameters is quick

    potential_class(name)
    return name


def _formula(text: str) -> str:
    from lib.crystals.elements import parse_formula

    parse_formula(text)
    return text


Formula = Annotated[str, AfterValidator(_formula)]
Potential = Annotated[str, AfterValidator(_potential)]
PotentialOrNone = Annotated[str, AfterValidator(lambda name: name if name == "none" else _potential(name))]
Network = Annotated[str, _one_of(lambda: NETWORKS)]
GenerationMethod = Annotated[str, _one_of(lambda: methods_of("generation"))]
ModificationMethod = Annotated[str, _one_of(lambda: methods_of("modification"))]
GenerationModel = Annotated[str, _one_of(lambda: model_names("generation"))]
ModificationModel = Annotated[str, _one_of(lambda: model_names("modification"))]
