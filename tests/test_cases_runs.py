"""Messy inputs of a run, from the folder of shared cases: requests, pages of AFLOW, VASP outputs, parameters.

Each case is read as its command reads it, in this process; what is right stands beside it.
"""

from __future__ import annotations

import os
import re
import shutil
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from lib.core import parameters, web
from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import notebook_parameters, validated
from lib.core.run import Run
from lib.crystals.elements import parse_formula
from lib.datasets.sources import aflow
from lib.energies.dft.calculation import hull_distances
from lib.energies.dft.vasp import read_calculations
from lib.energies.hull import Hull
from lib.generation.generate import DEFAULT_WEIGHTS
from lib.generation.proposals import checked
from lib.generation.requests import Request, read_requests
from lib.generation.sampling import load_model
from lib.generation.ship import Shipped, default_weights
from lib.profiles import MODELS
from lib.studies.params import IngestParams

CASES = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared")) / "cases"


def case(name: str) -> Path:
    if not CASES.is_dir():
        pytest.skip(f"{CASES} is missing; set CRYSTAL_SHARED to the folder of shared data")
    return CASES / name


def refusal(call, *words: str) -> None:
    """The call is refused in one sentence that has the words."""
    with pytest.raises(BadInput) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence and all(word in sentence for word in words), sentence


# ------------------------------------------------------------------------------------------------------------ generate

DEFAULTS = {"space_group": "any", "energy": "lowest", "z": "1", "n": "1"}


@cache
def shipped_model():
    weights = default_weights(DEFAULT_WEIGHTS["generation"])
    if not weights.is_file():
        pytest.skip(f"{weights} is missing")
    return load_model(weights)


def warnings_of(requests: list[Request]) -> list[str]:
    model = shipped_model()
    return [said for request in requests for said in checked(request, model, Shipped.within(model.about))]


@pytest.mark.parametrize(
    ("name", "formulas", "warned"),
    [
        ("space-groups-comma-space", None, 0),
        ("energy-far-out", None, 1),
        ("byte-order-mark", None, 0),
        ("empty-lines", None, 0),
        ("value-too-many", None, 0),
        ("space-group-2", None, 0),
        ("formula-twice", 2, 0),
        ("formula-three-ways", 3, 0),
    ],
)
def test_requests_that_are_read(name, formulas, warned):
    requests = read_requests(case("requests-usual") / f"{name}.csv", **DEFAULTS)
    assert len(requests) == (formulas or len(requests)) >= 1
    said = warnings_of(requests)
    assert len(said) == warned and all("-9" in sentence for sentence in said)


REFUSED = [
    "space-group-225-point-0", "space-groups-semicolon", "z-1-point-0", "energy-comma-decimal", "energy-unicode-minus",
    "energy-nan", "energy-1e400", "semicolons", "header-upper-case", "header-with-space",
    "line-without-formula", "formula-nan", "unknown-column", "no-requests", "column-twice",
    "n-0", "z-range-backwards", "any-in-upper-case", "space-group-0", "space-group-231",
    "formula-lower-case", "latin-1", "utf-16",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_requests_that_are_refused(name):
    path = case("requests-refused") / f"{name}.csv"
    refusal(lambda: warnings_of(read_requests(path, **DEFAULTS)), path.name)


def test_a_space_group_by_its_symbol_is_read_as_that_or_refused():
    path = case("requests-refused") / "space-group-fm-3m.csv"
    try:
        assert {request.space_groups for request in read_requests(path, **DEFAULTS)} == {(225,)}
    except BadInput as error:
        assert "line 2" in str(error)


@pytest.mark.parametrize(
    "formula",
    ["CuSO4·5H2O", "CuSO4.5H2O", "CuSO4*5H2O", "Fe0.5O", "H₂O", "Al₂O₃", "ta", "TAW2B5", "None", "nan", "No", "Na+Cl-"]
    + ["Fe3+2O3", "Fe2O3-", "Ta-W-B", "Ta1e3", "Ta100", "Og", "Uue", "X2", "", "()", "Ta(", "Ta2(W3(B2)2)3"]
    + ["../../x", "Ta/W", "Ta;rm", "1Ta", "2TaB2", "Ta²"],
)
def test_formulas_that_are_refused(formula):
    refusal(lambda: warnings_of([Request.parse(formula)]), formula)


@pytest.mark.parametrize(
    ("formula", "reads"),
    [
        ("Ca(OH)2", "CaO2H2"), ("LiFePO4", "LiFePO4"), ("Fe1.0O1.0", "FeO"), ("TaW2B5 ", "TaW2B5"), ("NaN", "NaN"),
        ("N aN", "NaN"), ("CO", "CO"), ("Co", "Co"), ("HfO2", "HfO2"), ("D2O", "H2O"), ("Li3[PO4]", "Li3PO4"),
        ("K[AuCl4]", "KAuCl4"), ("{Na}Cl", "NaCl"), ("Ta1W2B5", "TaW2B5"), ("B5TaW2", "TaW2B5"), ("TaTa", "Ta2"),
        ("Ta0W1", "W"), ("Ta00W", "W"), ("He", "He"), ("XeF2", "XeF2"), ("Ta2W3B4O5N6", "Ta2W3B4O5N6"),
        ("Ta\nW", "TaW"), ("Ta٣B", "Ta3B"), ("MgB２", "MgB2"),
    ],
)  # fmt: skip
def test_formulas_that_are_read(formula, reads):
    expected = parse_formula(reads)
    found = Request.parse(formula).species(1).tolist()
    assert sorted(found) == sorted(e.Z for e, count in expected.items() for _ in range(int(count)))


@pytest.mark.parametrize("n", ["99999999999", "100001", "9" * 5000])
def test_more_structures_than_anybody_can_look_at_are_refused(n):
    refusal(lambda: Request.parse("NaCl", n=n), "n '")
    refusal(lambda: Request.parse("NaCl", z=f"1..{n}"), "z '")
    assert Request.parse("NaCl", n="0100000").n == 100_000


# --------------------------------------------------------------------------------------------------------------- AFLOW


class Pages(ThreadingHTTPServer):
    """Files as the pages of entries of two species; any other page is empty."""

    daemon_threads = True

    def __init__(self, pages: list[bytes]):
        super().__init__(("127.0.0.1", 0), PagesHandler)
        self.pages, self.asked, self.moved = pages, [], None
        self.url = f"http://127.0.0.1:{self.server_port}/API/aflux/"


class PagesHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = unquote(self.path)
        number = int(re.search(r"paging\((\d+)", asked)[1])
        self.server.asked.append(asked)
        there = "nspecies(2)" in asked and number <= len(self.server.pages)
        body = self.server.pages[number - 1] if there else b"[]"
        self.send_response(302 if self.server.moved else 200)
        if self.server.moved:
            self.send_header("location", self.server.moved)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch, running):
    monkeypatch.setattr(web, "FIRST_WAIT", 0.01)
    return lambda *pages: running(Pages([page if isinstance(page, bytes) else page.read_bytes() for page in pages]))


def ingest(server: Pages, root: Path, **changes):
    about = {
        "source": "aflow",
        "aflow_url": server.url,
        "aflow_species": ["Ta", "W"],
        "aflow_max_species": 2,
        "aflow_pause": 0,
    }
    params = IngestParams(**about | {"run": "test"} | changes)
    return aflow.load(params, Run(params, root))


@pytest.mark.parametrize(("name", "entries"), [("plain", 1), ("strings", 1), ("k-of-n", 2), ("numbers-as-text", 3)])
def test_pages_of_aflow_that_are_read(serve, tmp_path, name, entries):
    table = ingest(serve(case("aflow-usual") / f"{name}.json"), tmp_path)
    assert len(table) == entries and table.about["complete"] is True and not table.about["set_aside"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("positions-null", "positions_fractional"),
        ("group-0-null-empty", "spacegroup_relax"),
        ("species-with-suffix", "unknown element"),
        ("positions-flat", "positions_fractional"),
        ("compound-of-another-order", "compound"),
        ("energy-nan", "enthalpy_formation_atom"),
        ("geometry-nan", "geometry"),
        ("angles-in-radian", "geometry"),
    ],
)
def test_entries_of_aflow_that_are_set_aside(serve, tmp_path, name, word):
    about = ingest(serve(case("aflow-set-aside") / f"{name}.json"), tmp_path).about
    assert about["complete"] is True
    assert about["set_aside"] and all(word in reason for reason in about["set_aside"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["html.html", "truncated.json", "empty.json"])
def test_what_is_no_page_of_aflow_is_asked_for_several_times(serve, tmp_path, name):
    server = serve(case("aflow-no-page") / name)
    refusal(lambda: ingest(server, tmp_path), "page 1", f"{web.ATTEMPTS} attempts")
    assert len([asked for asked in server.asked if "nspecies(2)" in asked]) == web.ATTEMPTS


@pytest.mark.parametrize(
    ("name", "words"),
    [("error-object.json", "bad keyword"), ("usage-text.json", "Welcome to Aflux"), ("2-of-5.json", "2 of 5")],
)
def test_errors_of_aflow_are_quoted(serve, tmp_path, name, words):
    server = serve(case("aflow-no-page") / name)
    for _ in range(2):  # nothing of it is kept
        refusal(lambda: ingest(server, tmp_path), words)


def test_aflow_cannot_send_anybody_to_a_local_file(serve, tmp_path):
    server = serve(b"[]")
    server.moved = (tmp_path / "secret.json").as_uri()
    (tmp_path / "secret.json").write_text("[]")
    refusal(lambda: ingest(server, tmp_path / "run"), "page 1", "file://")


def test_entries_of_aflow_that_come_twice(serve, tmp_path):
    folder = case("aflow-entries-repeated")
    table = ingest(serve(*sorted(folder.iterdir())), tmp_path, aflow_page_size=2)
    assert len(table) == 3 and table.about["complete"] is True and table.about["set_aside"] == {"auid met before": 1}


def test_the_same_page_of_aflow_for_ever(serve, tmp_path):
    page = case("aflow-same-page-for-ever") / "page_1.json"
    table = ingest(serve(*[page] * 9), tmp_path, aflow_page_size=2, aflow_max_pages=4)
    assert len(table) == 2 and table.about["complete"] is False and table.about["set_aside"] == {"auid met before": 6}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["null", "object", "empty-text", "false"])
def test_a_second_page_that_is_none_is_asked_for_again(serve, tmp_path, name):
    folder = case("aflow-second-page-null")
    server = serve(folder / "page_1.json", folder / f"page_2-{name}.json")
    refusal(lambda: ingest(server, tmp_path, aflow_page_size=2), "page 2")
    server.pages[1] = b"[]"
    assert len(ingest(server, tmp_path, aflow_page_size=2)) == 2


def test_a_page_nested_deeply(serve, tmp_path):
    refusal(lambda: ingest(serve(100_000 * b"["), tmp_path), "page 1")


def test_atoms_of_aflow_that_coincide_come_through_for_the_check_up(serve, tmp_path):
    table = ingest(serve(case("aflow-atoms-coincide") / "page_1.json"), tmp_path)
    assert len(table) == 1 and table.about["complete"] is True


# ---------------------------------------------------------------------------------------------------------------- VASP

PLACED = -0.8 + 2 / 3  # eV/atom


def placed(folder: Path, *cases: str, make=lambda folder: None) -> tuple[dict[str, float], list[str]]:
    """Distances of the candidates of a case beside the known phases, and the sentences."""
    for name in ("vasp-phases", *cases):
        shutil.copytree(case(name), folder, dirs_exist_ok=True)
    make(folder)
    calculations, unread = read_calculations(folder)
    found, problems = hull_distances(
        calculations, {"candidate": "TaB2", "cand2": "TaB2"}, Hull(["B", "Ta"], ["TaB"], [-0.8], ["known"], "test")
    )
    return found.energy_above_hull.round(6).to_dict(), [s.replace(f"{folder}/", "") for s in unread + problems]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vasp-other-settings/pbesol", "GGA = PS"),
        ("vasp-other-settings/r2scan", "METAGGA = R2SCAN"),
        ("vasp-other-settings/plus-u", "LDAU"),
        ("vasp-other-settings/other-pseudopotentials", "PAW Ta 04Feb2005"),
        ("vasp-energy-not-a-number/stars", "energy nan"),
        ("vasp-energy-not-a-number/nan", "energy nan"),
        ("vasp-under-pressure", "PSTRESS = 100 kB"),
        ("vasp-reported/entities-in-entities", "not a complete vasprun.xml"),
        ("vasp-reported/external-entity", "not a complete vasprun.xml"),
    ],
)
def test_candidates_that_vasp_cannot_place(tmp_path, name, words):
    found, said = placed(tmp_path, name)
    assert found == {} and len(said) == 1
    assert said[0].startswith("candidate/vasprun.xml") and words in said[0] and "secret of" not in said[0]
    secret = case(name) / "candidate" / "secret.txt"
    assert not secret.exists() or secret.read_text().strip() not in said[0]


@pytest.mark.parametrize(
    ("name", "distances", "named"),
    [
        ("vasp-two-relaxations", {"candidate": PLACED}, None),
        ("vasp-usual/static", {"candidate": PLACED}, None),
        ("vasp-nested-folder", {"cand2": PLACED, "candidate": PLACED - 1.2}, None),
        ("vasp-reported/truncated-gz", {"candidate": PLACED}, "c2/vasprun.xml.gz"),
    ],
)
def test_candidates_that_vasp_places(tmp_path, name, distances, named):
    found, said = placed(tmp_path, name)
    assert found == pytest.approx(distances, abs=1e-5)
    assert len(said) == (named is not None) and all(named in sentence for sentence in said)


def test_a_folder_called_vasprun(tmp_path):
    found, said = placed(tmp_path, "vasp-usual/static", make=lambda f: (f / "zz" / "vasprun.xml").mkdir(parents=True))
    assert found == pytest.approx({"candidate": PLACED}, abs=1e-5) and len(said) == 1 and "zz/vasprun.xml" in said[0]


@pytest.mark.parametrize(("name", "formulas"), [("bz2-and-xz", ["Ta", "Ta"]), ("r-for-zr", ["Zr"])])
def test_outputs_of_vasp_that_are_read(name, formulas):
    calculations, problems = read_calculations(case("vasp-usual") / name)
    assert [c.formula for c in calculations] == formulas and problems == []


# -------------------------------------------------------------------------------------------------------------- params


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A function that reads params/smoke with other contents of one file, as `lib.report execute` does."""
    shutil.copytree(ROOT / "params" / "smoke", tmp_path / "smoke")
    monkeypatch.setattr(parameters, "PROFILES", tmp_path)

    def read(notebook: str, text: str | bytes, *, whole: bool = False):
        path = tmp_path / "smoke" / f"{'_common' if text == 'run: published' else notebook}.yaml"
        name = text.split(":")[0] if isinstance(text, str) else ""
        lines = [] if whole else path.read_text().splitlines(True)
        kept = "".join(line for line in lines if not line.startswith(f"{name}:"))
        path.write_bytes(kept.encode() + (text if isinstance(text, bytes) else f"{text}\n".encode()))
        return validated(MODELS[notebook], notebook_parameters(notebook, "smoke"))

    return read


@pytest.mark.parametrize(
    ("notebook", "text", "words"),
    [
        ("04_train_generation", "steps: 012", ["steps", "012"]),
        ("07_inference_wbta", "space_groups: [225, 012]", ["space_groups", "012"]),
        ("04_train_generation", "steps: 10:00", ["steps", "10:00"]),
        ("04_train_generation", "learning_rate: 1:30", ["learning_rate", "1:30"]),
        ("04_train_generation", "steps: yes", ["steps", "yes"]),
        ("01_aflow_ingest", "source: files\nsource: embedded\n", ["source"]),
        ("01_aflow_ingest", "energy_window: [5, -5]", ["energy_window"]),
        ("04_train_generation", "learning_rate: .inf", ["learning_rate"]),
        ("04_train_generation", "learning_rate: .nan", ["learning_rate", "nan"]),
        ("07_inference_wbta", "formulas: []", ["formulas"]),
        ("07_inference_wbta", "run: published", ["run"]),
        ("09_vasp_hull_analysis", "vasp_foldr: x", ["vasp_foldr"]),
        ("04_train_generation", "compile: no", ["compile", "no"]),
        ("01_aflow_ingest", "aflow_species: [No, Y, N]", ["aflow_species", "No"]),
    ],
)
def test_parameters_that_are_refused(profile, notebook, text, words):
    refusal(lambda: profile(notebook, text), *words)


def test_parameters_that_are_read(profile):
    assert profile("04_train_generation", "learning_rate: 1e-3").learning_rate == 1e-3
    assert profile("04_train_generation", "steps: 1e3").steps == 1000
    assert profile("07_inference_wbta", "formulas: [NaN]").formulas == ["NaN"]


@pytest.mark.parametrize(
    "content",
    ["source: files\n\tseed: 1\n", "source: [files\n", "- a\n- b\n", "hello\n", b"source: files # \xfc\n"]
    + ["source: files\n".encode("utf-16"), "source: !!python/object/apply:os.getcwd []\n"],
)
def test_files_of_parameters_that_do_not_read(profile, content):
    refusal(lambda: profile("01_aflow_ingest", content, whole=True), "01_aflow_ingest.yaml")
