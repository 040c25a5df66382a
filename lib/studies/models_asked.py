"""Whether the models that notebooks of the report ask for are among those that notebooks 04 and 05 train."""

from collections.abc import Iterator, Mapping, Sequence

from lib.core.errors import BadInput
from lib.core.parameters import validated
from lib.studies.params import InferenceParams, MatchParams, TrainGenerationParams, TrainModificationParams, TrainParams
from lib.training.registry import model_rows, networks_and_methods

TRAINING = {"generation": TrainGenerationParams, "modification": TrainModificationParams}
ASKING = (MatchParams, InferenceParams)


def check_models(notebooks: Sequence[str], values: Mapping[str, Mapping[str, object]]) -> None:
    """Raise BadInput if one of the notebooks that a profile runs asks for a model that nobody trains.

    Args:
        values: what the profile gives each notebook.
    """
    for model in ASKING:
        if model.notebook in notebooks:
            for task, name in _asked(validated(model, values[model.notebook])):
                producer = TRAINING[task].notebook
                trained = _trained(validated(TRAINING[task], values[producer]))
                if name not in trained:
                    raise BadInput(
                        f"{model.notebook} asks for the {task} model {name!r}, and {producer} trains "
                        f"{', '.join(trained)}; change one of the profile's files of the two"
                    )


def _trained(p: TrainParams) -> list[str]:
    """As :func:`lib.studies.model_plan.trainers` names them."""
    names = ["_".join(model) for model in networks_and_methods(p.networks, p.methods)]
    return names + ([f"{p.long_model}_long"] if p.long_model else [])


def _asked(p: MatchParams | InferenceParams) -> Iterator[tuple[str, str]]:
    """Task and name of each model that a notebook cannot do without."""
    if isinstance(p, InferenceParams):
        yield from (("generation", name) for name in p.models.values())
        yield from (("modification", name) for name in p.modification_models)
    else:
        rows = model_rows("generation", p.networks, p.methods, p.long_model)
        yield from (("generation", name) for name, _ in rows.values())
        rows = model_rows("modification", p.modification_networks, p.modification_methods, p.modification_long_model)
        yield from (("modification", name) for name, _ in rows.values())
