"""A profile as a whole: the parameter model of each notebook, and every value checked before the first one runs."""

from lib.core.parameters import REPORT, STUDY, Params, notebook_parameters, own_files, profile_notebooks, validated
from lib.dismai import params as of_dismai
from lib.studies import params, score_params, study_params
from lib.studies.models_asked import check_models

MODELS: dict[str, type[Params]] = {
    model.notebook: model
    for module in (params, study_params, score_params, of_dismai)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, Params) and "notebook" in vars(model)
}


def checked_values(profile: str) -> dict[str, dict[str, object]]:
    """What a profile gives each notebook (:func:`lib.core.parameters.notebook_parameters`).

    Raises BadInput for a value that one of its notebooks would refuse, or a model that nobody trains: before the run,
    as the notebook would say so only when those before it are done.
    """
    values = {name: notebook_parameters(name, profile) for name in MODELS}
    report, study = (profile_notebooks(profile, sorted(MODELS), which) for which in (REPORT, STUDY))
    for name in sorted({*report, *study, *own_files(profile)}):
        validated(MODELS[name], values[name])
    check_models(report, values)
    return values
