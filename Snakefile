"""The order of the notebooks: what each one reads and makes. `params/<profile>/_common.yaml` lists those that run, `notebooks` for the report and `study` for the target `study`.

    snakemake -n                                            what is left to do
    snakemake --config profile=quick run=quick              outputs/quick/, with params/quick/
    snakemake --config profile=quick --forcerun 06_match_tables

A notebook is done when its manifest and page exist; those before it that are missing run, too, listed or not. Trained models are not listed as outputs: Snakemake deletes the
outputs of a step before it repeats it, and an interrupted training must find its finished models and checkpoints.
"""

import sys
from pathlib import Path

from lib.core.errors import BadInput
from lib.core.parameters import LISTS, REPORT, STUDY, Params, profile_notebooks, validated
from lib.profiles import MODELS, checked_values

PROFILE = config.get("profile", "quick")
RUN = str(config.get("run", PROFILE))
OUT = f"outputs/{RUN}"

STUDIED = [f"{OUT}/data/{name}.parquet" for name in ("train", "targets", "template_examples", "template_choices")]
RELAXED = ("preoptimised", "requests_relaxed", "preoptimised_finer", "requests_finer")
STUDY_FOLLOWS = ["01_aflow_ingest", "02_polymorph_dataset", "04_train_generation", "06_match_tables"]

# notebook: (files it reads, notebooks it follows, files it makes)
STEPS = {
    "01_aflow_ingest": (
        ["lib/data/embedded.parquet"],
        [],
        [f"{OUT}/data/crystals.parquet", f"{OUT}/data/training.parquet"],
    ),
    "02_polymorph_dataset": (
        [f"{OUT}/data/training.parquet"],
        ["01_aflow_ingest"],
        [f"{OUT}/data/{name}.parquet" for name in ("train", "validation", "test", "validation_pairs", "test_pairs")],
    ),
    "03_pbc_loss": (
        [f"{OUT}/data/train.parquet", f"{OUT}/data/validation.parquet"],
        ["02_polymorph_dataset"],
        [],
    ),
    "04_train_generation": (
        [f"{OUT}/data/train.parquet", f"{OUT}/data/validation.parquet"],
        ["02_polymorph_dataset"],
        [f"{OUT}/data/template_{name}.parquet" for name in ("examples", "choices")],
    ),
    "05_train_modification": (
        [f"{OUT}/data/{name}.parquet" for name in ("train", "validation", "validation_pairs")],
        ["02_polymorph_dataset"],
        [],
    ),
    "06_match_tables": (
        [
            f"{OUT}/data/{name}.parquet"
            for name in ("train", "validation", "test", "test_pairs", "template_examples", "template_choices")
        ],
        ["04_train_generation", "05_train_modification"],
        [f"{OUT}/tables/table_1_generation.csv", f"{OUT}/tables/table_2_modification.csv"]
        + [f"{OUT}/data/targets.parquet", f"{OUT}/data/pairs.parquet"],
    ),
    "07_inference_wbta": (
        [f"{OUT}/data/crystals.parquet", f"{OUT}/data/training.parquet"],
        ["01_aflow_ingest", "04_train_generation", "05_train_modification"],
        [f"{OUT}/data/generated.parquet", f"{OUT}/data/requests_generated.parquet"],
    ),
    "08_preoptimise": (
        [f"{OUT}/data/generated.parquet", f"{OUT}/data/requests_generated.parquet"],
        ["07_inference_wbta"],
        [f"{OUT}/data/{name}.parquet" for name in RELAXED],
    ),
    "09_vasp_hull_analysis": (
        [f"{OUT}/data/{name}.parquet" for name in ("crystals", *RELAXED)],
        ["01_aflow_ingest", "08_preoptimise"],
        [f"{OUT}/tables/table_3_hull_distances.csv"],
    ),
    "10_what_must_be_told": (
        STUDIED,
        STUDY_FOLLOWS,
        [f"{OUT}/tables/study_{name}.csv" for name in ("settings", "conditions", "by_energy")],
    ),
    "11_does_it_obey": (
        STUDIED,
        STUDY_FOLLOWS,
        [f"{OUT}/tables/study_{name}.csv" for name in ("group_control", "energy_within", "energy_across")],
    ),
    "12_modification": (
        STUDIED + [f"{OUT}/data/{name}.parquet" for name in ("validation", "validation_pairs", "test", "pairs")],
        [*STUDY_FOLLOWS, "05_train_modification"],
        [f"{OUT}/tables/study_{name}.csv" for name in ("modification", "improvement", "template_improved")],
    ),
    "13_ablation": (
        STUDIED,
        STUDY_FOLLOWS,
        [f"{OUT}/tables/study_{name}.csv" for name in ("ablation", "best_of", "no_template")],
    ),
    "14_uniform_or_normal": (
        [f"{OUT}/data/{name}.parquet" for name in ("train", "validation", "test")],
        ["02_polymorph_dataset"],
        [f"{OUT}/tables/uniform_less_normal.csv"],
    ),
    "20_score_graph": (
        [f"{OUT}/data/training.parquet"],
        ["01_aflow_ingest"],
        [f"{OUT}/tables/score_graph_sizes.csv"],
    ),
    "21_score_model": (
        [f"{OUT}/data/{name}.parquet" for name in ("train", "validation")],
        ["02_polymorph_dataset"],
        [f"{OUT}/tables/score_{name}.csv" for name in ("training", "choices", "claims")],
    ),
    "22_score_tables": (
        [f"{OUT}/data/{name}.parquet" for name in ("train", "test")],
        ["02_polymorph_dataset", "21_score_model"],
        [f"{OUT}/tables/score_levels.csv"],
    ),
    "23_score_finds": (
        [f"{OUT}/data/{name}.parquet" for name in ("crystals", "train", "validation")],
        ["02_polymorph_dataset", "21_score_model"],
        [f"{OUT}/tables/table_3_new_crystals.csv"],
    ),
}

STEPS |= {  # Dismai-Bench, of profiles of its own
    "30_dismai_datasets": (
        [],
        [],
        [f"{OUT}/tables/{name}.csv" for name in ("dismai_datasets", "table_baselines")],
    ),
    "31_dismai_entrants": (
        [f"{OUT}/tables/dismai_datasets.csv"],
        ["30_dismai_datasets"],
        [f"{OUT}/tables/dismai_generated.csv"],
    ),
    "32_dismai_bench": (
        [f"{OUT}/tables/dismai_generated.csv"],
        ["31_dismai_entrants"],
        [f"{OUT}/tables/dismai_scores.csv"],
    ),
    "33_cryingan_study": (
        [f"{OUT}/tables/dismai_datasets.csv"],
        ["30_dismai_datasets"],
        [f"{OUT}/tables/cryingan_study.csv"],
    ),
}

SHIPPED = "lib/weights/generation_mp20.safetensors"
if Path(SHIPPED).exists():
    STEPS["00_quickstart"] = ([SHIPPED], [], [f"{OUT}/structures/quickstart/summary.csv"])

try:
    validated(Params, {"run": RUN})
    VALUES = checked_values(PROFILE)
    CHOSEN = {
        which: [step for step in profile_notebooks(PROFILE, sorted(MODELS), which) if step in STEPS]
        for which in LISTS
    }
except BadInput as error:
    sys.exit(f"\n{error}\n")


rule report:
    input:
        expand([f"{OUT}/manifests/{{step}}.json", f"{OUT}/html/{{step}}.html"], step=CHOSEN[REPORT]),
    output:
        f"{OUT}/index.html",
        f"{OUT}/manifest.json",
        f"{OUT}/scores.json",
    shell:
        "{sys.executable:q} -m lib.report index {RUN:q}"


rule study:  # after the report, whose index it writes again
    input:
        expand([f"{OUT}/manifests/{{step}}.json", f"{OUT}/html/{{step}}.html"], step=CHOSEN[STUDY]),
        ancient(f"{OUT}/index.html"),
    output:
        touch(f"{OUT}/.study"),
    shell:
        "{sys.executable:q} -m lib.report index {RUN:q}"


SHARDS = VALUES["02_polymorph_dataset"].get("shards")
if SHARDS:  # symmetry, most of the work of a large data set, as jobs that a cluster does side by side
    NUMBERED = [f"{OUT}/data/prepared/{i:05d}_of_{SHARDS:05d}.parquet" for i in range(SHARDS)]
    reads, *others = STEPS["02_polymorph_dataset"]
    STEPS["02_polymorph_dataset"] = ([*reads, *NUMBERED], *others)

    rule shard:
        input:
            f"{OUT}/data/training.parquet",
        output:
            f"{OUT}/data/prepared/{{shard}}_of_{SHARDS:05d}.parquet",
        threads: 1
        resources:
            mem_mb=4000,
        shell:
            "{sys.executable:q} -m lib.datasets asymmetric_units {input:q} {wildcards.shard} {SHARDS} {OUT:q}/data/prepared"


for step, (reads, follows, makes) in STEPS.items():

    rule:
        name:
            step
        input:
            f"notebooks/{step}.ipynb",
            reads,
            expand(f"{OUT}/manifests/{{earlier}}.json", earlier=follows),
        output:
            f"{OUT}/manifests/{step}.json",
            f"{OUT}/html/{step}.html",
            makes,
        params:
            given=VALUES[step],  # other values run the notebook again
        threads: workflow.cores or 2  # one notebook at a time: each uses every core
        resources:
            mem_mb=8000,
        shell:
            "{sys.executable:q} -m lib.report execute {rule:q} --profile {PROFILE:q} --run {RUN:q}"
