"""From notebooks to a report: run one under papermill, gather a run's index and scores, publish a copy.

    python -m lib.report execute 04_train_generation --profile quick --run quick
    python -m lib.report index quick
    python -m lib.report publish quick
    python -m lib.report readme

Pages open from disk, and nothing is fetched (:mod:`lib.report.pages`).
"""

import argparse
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from lib.core.commands import command
from lib.core.errors import BadInput
from lib.core.files import ROOT, only_one_in, read_json, replacing, write_json, writing
from lib.core.parameters import LISTS, MODEL_STUDY, NOW_FOUR, Params, notebook_parameters, profile_notebooks, validated
from lib.core.run import duration_in_words, score_in_words
from lib.report.goals import beside
from lib.report.headlines import headline_table, score_page
from lib.report.pages import NOTEBOOKS, TEMPLATES, page_style, title_of, write_page

OUTPUTS = ROOT / "outputs"
PUBLISHED = ("index.html", "manifest.json", "scores.json", "html/*.html", "figures/*.png", "tables/*.csv")
PUBLISHED += ("structures/*.zip",)
PUBLISHED_LIMIT = 12_000_000  # bytes, of all published runs together
ROWS_SHOWN = 30
FIRST = ("06_match_tables", "09_vasp_hull_analysis")  # whose findings head the index
LEADING = (  # the figures and tables below the findings; of several names the first that the run has
    ("figures/table_1_match_rates.png",),
    ("figures/table_3_distances.png", "figures/ternary_hull.png"),
    tuple(f"figures/{name}.png" for name in ("best_candidates", "inference_gallery", "quickstart_gallery")),
    ("figures/figure_table_3_alloy_300K_wide.png", "figures/baselines_300K.png"),
    ("tables/table_1_generation.csv",),
    ("tables/table_2_modification.csv",),
    ("tables/table_3_hull_distances.csv",),
)
SAMPLES = re.compile(  # tables with a line a sample, or made of a few; their rates stand in others
    r"match_verdicts_(generation|modification)|study_verdicts_\w+|\w+_structures|study_(group_outcomes|relaxed_pairs)"
    r"|best_candidates|vasp_inputs|preoptimised_counts|requests_\w+"
)
README_MARKS = ("<!-- results -->", "<!-- /results -->")


def execute(notebook: str, profile: str, run: str) -> Path:
    """Run a notebook into `outputs/<run>/` and make its page; the manifest gains time and peak memory. Raises BadInput
    if a cell failed (the page up to it is kept as `html/<notebook>.partial.html`), the kernel was killed,
    `outputs/<run>` cannot be written, or the run is under way."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    folder, known = run_folder(run), sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    if notebook not in known:
        raise BadInput(f"there is no notebook {notebook!r}; name one of {', '.join(known)}")
    executed, page = folder / "notebooks" / f"{notebook}.ipynb", folder / "html" / f"{notebook}.html"
    partial = page.with_suffix(".partial.html")
    values = notebook_parameters(notebook, profile) | {"run": run}
    started = time.time()
    print(f"\n{notebook}: {title_of(NOTEBOOKS / f'{notebook}.ipynb')}", flush=True)
    with writing(executed), only_one_in(folder, "choose another RUN", ".lock"), _peak_memory() as peak:
        try:
            papermill.execute_notebook(
                NOTEBOOKS / f"{notebook}.ipynb",
                executed,
                values,
                cwd=ROOT,
                extra_arguments=["--IPKernelApp.log_level=ERROR"],
                stderr_file=sys.stderr if sys.stderr.isatty() else None,  # the cells' own progress bars
            )
        except papermill.PapermillExecutionError as error:
            write_page(executed, partial)
            where = f"{notebook} stopped in cell [{error.exec_count}]"
            raise BadInput(f"{where}: {error.ename}: {error.evalue}\nThe page up to there: {partial}") from None
        except DeadKernelError:
            raise BadInput(
                f"the kernel of {notebook} was killed, most often for want of memory; close other programs or lower "
                "'n_workers' and the batch sizes, and give the same command again: what is finished is kept"
            ) from None
    order = next((names for which in LISTS if notebook in (names := profile_notebooks(profile, known, which))), [])
    write_page(executed, page, order)
    partial.unlink(missing_ok=True)
    manifest_path = folder / "manifests" / f"{notebook}.json"
    manifest = read_json(manifest_path)
    manifest |= {"profile": profile, "seconds": round(time.time() - started, 1), "peak_gib": round(peak[0], 2)}
    write_json(manifest_path, manifest)
    index(run, profile_notebooks(profile, known))
    return page


def run_folder(run: str) -> Path:
    """`outputs/<run>`. Raises BadInput if that is no name of a run."""
    return OUTPUTS / validated(Params, {"run": run}).run


@contextmanager
def _peak_memory(interval: float = 0.25) -> Iterator[list[float]]:
    """Largest resident memory of this process and its children together, in GiB, sampled while the block runs."""
    import psutil

    peak, done = [0.0], threading.Event()

    def sample() -> None:
        here = psutil.Process()
        while not done.wait(interval):
            total = 0
            for process in [here, *here.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            peak[0] = max(peak[0], total / 2**30)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        done.set()
        sampler.join()


def index(run: str, expected: Sequence[str] = ()) -> Path:
    """Merge a run's manifests into `manifest.json`, `scores.json` and `index.html`, which names those of the `expected`
    notebooks that are still to come. Raises BadInput if the run has no finished notebook."""
    from jinja2 import Environment, FileSystemLoader

    folder = run_folder(run)
    manifests = [_manifest(path) for path in sorted(folder.glob("manifests/*.json"))]
    if not manifests:
        raise BadInput(f"run {run!r} has no finished notebook in {folder}; start with: make report RUN={run}")
    if any(m["notebook"] == MODEL_STUDY for m in manifests):
        print(f"{folder}/manifests/{MODEL_STUDY}.json is of an earlier version: {NOW_FOUR}; then remove this file")
    write_json(folder / "manifest.json", {"run": run, "notebooks": {m["notebook"]: m for m in manifests}})
    scores = run_scores(run, manifests)
    values = {score["id"]: score["value"] for score in scores}
    write_json(folder / "scores.json", scores)
    notebooks = [_for_index(folder, manifest) for manifest in manifests]
    results = {result["path"]: result for notebook in notebooks for result in notebook["results"]}
    leading = [next((results[path] for path in paths if path in results), None) for paths in LEADING]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template("index.html.j2").render(
        run=run,
        css=page_style(),
        findings=[m for m in sorted(notebooks, key=lambda m: m["notebook"] not in FIRST) if m.get("findings")],
        leading=[result for result in leading if result],
        notebooks=notebooks,
        to_come=[name for name in expected if not any(name == m["notebook"] for m in manifests)],
        scores=[score | {"words": score_in_words(score), "target": beside(score, values)} for score in scores],
        total=duration_in_words(sum(m["seconds"] for m in manifests)),
        commits=sorted({f"{m['commit'][:10]}{' with changes' if m['dirty'] else ''}" for m in manifests}),
        machines=sorted({", ".join(f"{k}: {v}" for k, v in m["hardware"].items() if v) for m in manifests}),
        packages=manifests[-1]["packages"],
    )
    with replacing(folder / "index.html") as temporary:
        temporary.write_text(html)
    return folder / "index.html"


def run_scores(run: str, manifests: Sequence[dict]) -> list[dict[str, object]]:
    """What the notebooks scored, and the time and memory of those that `make report` runs; `first_page_seconds` is the
    time until the pages of the quickstart and of the data (00 to 02) can be read."""
    reported = [m for m in manifests if "make study" not in m.get("command", "")] or manifests
    last = reported[-1]
    machine = next((s["machine"] for m in manifests for s in m["scores"]), last["hardware"]["cpu"])
    profile = last.get("profile", run)
    command = f"make report PROFILE={profile}" + ("" if run == profile else f" RUN={run}")

    def of_the_run(name: str, value: float, unit: str) -> dict[str, object]:
        interval = {"n": 1, "ci_low": None, "ci_high": None}
        about = {"machine": machine, "command": command, "commit": last["commit"]}
        return {"id": f"{run}.{name}", "value": round(value, 2), "unit": unit} | interval | about

    scores = [score for manifest in manifests for score in manifest["scores"]]
    scores.append(of_the_run("seconds", sum(m["seconds"] for m in reported), "s"))
    if first := [m["seconds"] for m in reported if m["notebook"] < "03"]:
        scores.append(of_the_run("first_page_seconds", sum(first), "s"))
    scores.append(of_the_run("peak_gib", max(m["peak_gib"] for m in reported), "GiB"))
    second = OUTPUTS / run / "second_run.json"
    if second.exists():
        scores.append(of_the_run("second_run_seconds", read_json(second)["seconds"], "s"))
    return scores


def _manifest(path: Path) -> dict:
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not {"notebook", "outputs", "scores", "seconds"} <= manifest.keys():
        raise BadInput(f"{path} is no manifest of a notebook; delete it and give the same command again")
    return manifest


def _for_index(folder: Path, manifest: dict) -> dict[str, object]:
    """A notebook as the index shows it: its figures and tables in the paper's order, then its other facts. Raises
    BadInput if one of them is gone or damaged."""
    name, results = manifest["notebook"], []
    executed = folder / "notebooks" / f"{name}.ipynb"
    for path, about in manifest["outputs"].items():
        if re.match(r"figures/.*\.png|tables/.*\.csv", path):
            try:
                shown = {"table": _table(folder / path)} if path.endswith(".csv") else {"width": _width(folder / path)}
            except (OSError, ValueError) as error:
                raise BadInput(
                    f"{folder / path} is gone or damaged ({error}); delete {folder / 'manifests' / name}.json, of the "
                    "notebook that made it, and give the same command again"
                ) from error
            label, anchor = label_of(path), path.split(".")[0].replace("/", "-")
            caption = _after(label, about["caption"])
            shown = {"table": None, "width": None} | shown
            results.append({"path": path, "anchor": anchor, "label": label, "caption": caption} | shown)
    results = sorted(results, key=lambda result: (result["label"] == "", result["label"]))
    about = {"results": results, "duration": duration_in_words(manifest["seconds"])}
    return manifest | about | {"title": title_of(executed) if executed.exists() else name}


def label_of(path: str) -> str:
    """The paper's number of a figure or table: "Figure 3" for figures/figure_3_coordinates.png, else ""."""
    match = re.match(r"(figure|table)_(\d+[a-z]?)_", Path(path).name)
    return f"{match[1].capitalize()} {match[2]}" if match else ""


def _after(label: str, caption: str) -> str:
    """A caption without the label that stands before it, as a sentence of its own."""
    rest = caption.removeprefix(f"{label}: ")
    return caption if rest == caption else rest[:1].upper() + rest[1:]


def _width(picture: Path) -> int:
    """Width in CSS pixels (96 an inch) at which a picture's text has the size it was drawn for."""
    from PIL import Image

    with Image.open(picture) as image:
        return round(image.width * 96 / image.info.get("dpi", (96, 96))[0])


def _table(path: Path) -> dict[str, object]:
    """A table as the index shows it: its first rows, what all rows have in common, and how many rows are left out.

    Of a long table with a line a sample nothing is shown: it is there as a file.
    """
    try:
        frame = pd.read_csv(path)
    except pd.errors.EmptyDataError:  # a table without columns: there was nothing to put in it
        return {"html": "<p>nothing to show</p>", "common": [], "hidden": 0}
    if SAMPLES.fullmatch(path.stem) and len(frame) > ROWS_SHOWN:
        return {"html": f"<p>{len(frame):,} rows, in the file only</p>", "common": [], "hidden": 0}
    frame = frame.dropna(axis=1, how="all") if len(frame) else frame
    texts = pd.DataFrame({name: _in_digits(frame[name]) for name in frame})
    same = [name for name in frame.columns[1:] if len(frame) > 1 and frame[name].nunique(dropna=False) == 1]
    shown = texts if len(frame) <= ROWS_SHOWN + 1 else texts.head(ROWS_SHOWN)  # a line that says "1 more" is a row, too
    with pd.option_context("display.max_colwidth", None):
        shown = shown.drop(columns=same).rename(columns=lambda name: str(name).replace("_", " "))
        html = shown.to_html(index=False, border=0, na_rep="–")
    return {
        "html": html,
        "common": [(name.replace("_", " "), texts[name].iloc[0]) for name in same],
        "hidden": len(frame) - len(shown),
    }


def _in_digits(column: pd.Series) -> pd.Series:
    """Numbers as text with as many decimals as their size has use for: 0.535, 12.35, 1,188; whole ones without. All
    have those of the largest, but where that is another kind of number than most (over 100 times their median)."""
    if not pd.api.types.is_numeric_dtype(column) or column.dtype == bool:
        return column.fillna("–")
    known = column.dropna()
    if (known % 1 == 0).all():
        return column.map("{:,.0f}".format, na_action="ignore").fillna("–")
    size, median = known.abs().max(), known[known != 0].abs().median()
    each = size > 100 * median
    return column.map(lambda x: _form(abs(x) if each else size).format(x), na_action="ignore").fillna("–")


def _form(size: float) -> str:
    """How a number of some size is written."""
    return "{:.3g}" if 0 < size < 0.01 else "{:z,.3f}" if size < 10 else "{:z,.2f}" if size < 100 else "{:z,.1f}"


def publish(run: str, readme_path: Path = ROOT / "README.md", weights: Path = ROOT / "lib" / "weights") -> Path:
    """Copy a run's small files to `outputs/published/<run>/` and merge its scores into `outputs/published/scores.json`.

    Before that, time a second `make report` of the same run, which has nothing to do; after it, renew the README's
    results, the page of all scores and the cards of the weights that ship. Raises BadInput if the run has no scores, or
    all published runs together would be too large.
    """
    folder, published = run_folder(run), OUTPUTS / "published"
    if (folder / "manifest.json").exists():
        _time_second_run(run)
        index(run)
    if not (folder / "scores.json").exists():
        raise BadInput(f"{folder / 'scores.json'} is missing; make the run first: make report RUN={run}")
    files = {path.relative_to(folder): path.stat().st_size for pattern in PUBLISHED for path in folder.glob(pattern)}
    files = {path: size for path, size in files.items() if ".partial." not in path.name}
    others = [path for path in published.rglob("*") if path.is_file() and not path.is_relative_to(published / run)]
    total = sum(files.values()) + sum(path.stat().st_size for path in others)
    if total > PUBLISHED_LIMIT:
        largest = ", ".join(f"{path} ({files[path] / 1e6:.1f} MB)" for path in sorted(files, key=files.get)[:-4:-1])
        raise BadInput(
            f"with run {run!r}, {published} would hold {total / 1e6:.1f} MB, more than {PUBLISHED_LIMIT / 1e6:g} MB; "
            f"remove a published run, or make these files smaller: {largest}"
        )
    shutil.rmtree(published / run, ignore_errors=True)
    for path in files:
        (published / run / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, published / run / path)
    path = published / "scores.json"
    scores = read_json(path) if path.exists() else []
    merged = {score["id"]: score for score in scores + read_json(folder / "scores.json")}
    write_json(path, [score for _, score in sorted(merged.items())])
    readme(readme_path, weights)
    from lib.generation.ship import write_card  # torch comes with it

    for file in weights.rglob("*.safetensors"):
        write_card(file, published=path)
    return published


def _time_second_run(run: str) -> None:
    notebooks = read_json(OUTPUTS / run / "manifest.json")["notebooks"]
    profile, started = next(iter(notebooks.values())).get("profile", run), time.time()
    subprocess.run(["make", "report", f"PROFILE={profile}", f"RUN={run}"], cwd=ROOT, check=True)
    write_json(OUTPUTS / run / "second_run.json", {"seconds": round(time.time() - started, 1)})


def readme(path: Path = ROOT / "README.md", weights: Path = ROOT / "lib" / "weights") -> Path:
    """Write the README's results, between its marks, and the page of all scores, `outputs/published/scores.md`. Raises
    BadInput if the README has lost its marks."""
    text, published = path.read_text(), OUTPUTS / "published"
    if not all(mark in text for mark in README_MARKS):
        raise BadInput(f"{path} has no line {README_MARKS[0]} followed by {README_MARKS[1]}; put them back")
    known = published / "scores.json"
    scores = read_json(known) if known.exists() else []
    before, after = text.split(README_MARKS[0])[0], text.split(README_MARKS[1])[1]
    with replacing(path) as temporary:
        temporary.write_text(f"{before}{README_MARKS[0]}\n{headline_table(scores)}\n{README_MARKS[1]}{after}")
    with replacing(published / "scores.md") as temporary:
        temporary.write_text(score_page(scores, published, weights))
    return path


@command()
def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m lib.report", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run_one = commands.add_parser("execute", help="run one notebook and make its page")
    run_one.add_argument("notebook")
    for option in ("--profile", "--run"):
        run_one.add_argument(option, required=True)
    for name, does in (("index", "gather a run's index.html"), ("publish", "copy a run's small files and scores")):
        commands.add_parser(name, help=does).add_argument("run")
    commands.add_parser("readme", help="write the README's results and the page of all scores")
    arguments = vars(parser.parse_args())
    does = {"execute": execute, "index": index, "publish": publish, "readme": readme}[arguments.pop("command")]
    print(does(**arguments).relative_to(ROOT))
