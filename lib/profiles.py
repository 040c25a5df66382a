"""A profile as a whole: the parameter model of each notebook, and every value checked before the first one runs."""

from lib.core.parameters import LISTS, Params, notebook_parameters, profile_notebooks, validated
from lib.dismai import params as of_dismai
from lib.studies import params, score_params, study_params

MODELS: dict[str, type[Params]] = {
    model.notebook: model
    for module in (params, study_params, score_params, of_dismai)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, Params) and "notebook" in vars(model)
}


def checked_values(profile: str) -> dict[str, dict[str, object]]:
    """What a profile gives each notebook (:func:`lib.core.parameters.notebook_parameters`).

    Raises BadInput for a value that a notebook which the profile runs would refuse: before the run, since the notebook
    itself would say so only when those before it are done, which can take hours.
    """
    values = {name: notebook_parameters(name, profile) for name in MODELS}
    for name in {name for which in LISTS for name in profile_notebooks(profile, sorted(MODELS), which)}:
        validated(MODELS[name], values[name])
    return values
