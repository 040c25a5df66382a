"""AFLOW ingest against a server that speaks AFLUX over a real socket: summonses, paging, both answer shapes, faults."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from aflux_server import Aflux, entry
from pymatgen.core import Lattice, Structure

from lib.core import web
from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.run import Run
from lib.crystals.elements import SYMBOLS
from lib.datasets import sources
from lib.datasets.sources import aflow
from lib.datasets.sources.aflow.entries import read_entry
from lib.datasets.sources.aflow.pages import entries_of, kept_entries, kept_head
from lib.studies.params import IngestParams
from lib.symmetry.cells import standardised

RECORDED = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared")) / "data" / "aflux"


@pytest.fixture
def serve(running):
    """Starts servers of entries, which end with the test."""
    return lambda entries, shape="array": running(Aflux(entries, shape))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(web, "FIRST_WAIT", 0.01)


# ------------------------------------------------------------------------------------------------------ the data


def wanted_and_others():
    """Everything that must be found, and beside it everything that a careless query would bring along."""
    wanted = [
        *(entry(i, {"Ta": 1 + i % 3, "W": 1 + i % 2, "B": 2 + i % 4}) for i in range(30)),
        *(entry(100 + i, {"Ta": 1 + i % 3, "B": 2}) for i in range(12)),
        *(entry(200 + i, {"W": 1, "B": 1 + i}, catalog="LIB2") for i in range(9)),
        *(entry(300 + i, {"Ta": 2, "W": 2 + i}, catalog="LIB2") for i in range(4)),
        *(entry(400 + i, {"Ta": 1 + i}, catalog="LIB2") for i in range(3)),
    ]
    others = [
        entry(900, {"Ta": 1, "W": 1, "Mo": 1, "B": 5}),
        entry(901, {"Ta": 1, "Mo": 2}),
        entry(902, {"Mo": 4}),
        entry(903, {"Ta": 40, "B": 40}),
        entry(904, {"Ta": 1, "B": 2}, catalog="ICSD"),
        entry(905, {"Ta": 1, "B": 2}, dft_type=["PAW_LDA"]),
    ]
    return wanted, others


def ingest(server, root, **changes):
    values = {
        "source": "aflow",
        "aflow_url": server.url,
        "aflow_species": ["W", "B", "Ta"],
        "aflow_page_size": 7,
        "aflow_connections": 1,
        "aflow_pause": 0,
        "run": "test",
    }
    params = IngestParams(**(values | changes))
    run = Run(params, root)
    return sources.load(params, run), run


def set_aside(run):
    return pd.read_csv(run.folder / "tables" / "aflow_set_aside.csv", keep_default_na=False)


# ------------------------------------------------------------------------------------------------------ queries


def test_summons_says_what_is_wanted():
    params = IngestParams(source="aflow", aflow_species=["W", "B", "Ta"], aflow_sites=[4, 60])
    asked = {query.name: query.summons(params) for query in aflow.queries(params)}
    conditions = "natoms(4*,*60),catalog(LIB2:LIB3),dft_type(PAW_PBE),compound,composition,geometry"
    assert list(asked) == ["1_species", "2_species-B", "2_species-Ta", "3_species-B-Ta"]
    assert asked["1_species"].startswith(f"auid,species(B:Ta:W),nspecies(1),{conditions}")
    assert asked["2_species-B"].startswith(f"auid,species(B,(Ta:W)),nspecies(2),{conditions}")
    assert asked["2_species-Ta"].startswith(f"auid,species(Ta,W),nspecies(2),{conditions}")
    assert asked["3_species-B-Ta"].startswith(f"auid,species(B,Ta,W),nspecies(3),{conditions}")


def test_thousands_of_systems_take_few_queries():
    params = IngestParams(source="aflow", aflow_species=SYMBOLS[21:76].tolist())
    assert len(aflow.queries(params)) == 1 + 54 + 54 * 53 / 2  # of 55 elements: 27,775 systems


def test_unknown_element_is_named():
    params = IngestParams(source="aflow", aflow_species=["Ta", "Wo", "B"])
    with pytest.raises(BadInput, match="'aflow_species' .*Wo"):
        aflow.queries(params)


# ------------------------------------------------------------------------------------------------------- ingest


@pytest.mark.parametrize("shape", ["array", "k of n"])
def test_every_wanted_entry_comes_and_no_other(serve, tmp_path, shape):
    wanted, others = wanted_and_others()
    server = serve([*others, *wanted], shape)
    table, run = ingest(server, tmp_path)
    assert sorted(table.id) == sorted(e["auid"] for e in wanted)
    assert len(set_aside(run)) == 0
    assert table.energy_kind == "AFLOW PAW_PBE formation enthalpy"
    assert table.about["complete"] is True
    by_id = {e["auid"]: e for e in wanted}
    for i in range(len(table)):
        given = by_id[table.id[i]]
        species = np.repeat(given["species"], given["composition"]).tolist()
        given_cell = Structure(Lattice.from_parameters(*given["geometry"]), species, given["positions_fractional"])
        expected, found = standardised(given_cell), table.structure(i)
        assert table.formula[i] == given["compound"]
        assert table.formation_energy[i] == pytest.approx(given["enthalpy_formation_atom"])
        assert table.space_group[i] == given["spacegroup_relax"]
        assert table.extra["prototype"][i] == given["prototype"]
        np.testing.assert_allclose(found.lattice.parameters, expected.lattice.parameters, rtol=1e-9)
        order = [min(range(len(expected)), key=lambda j: found[k].distance(expected[j])) for k in range(len(found))]
        assert sorted(order) == list(range(len(expected)))
        assert [expected[j].specie for j in order] == [site.specie for site in found]


def test_pages_end_at_the_first_that_is_not_full(serve, tmp_path):
    # 28 ternaries in pages of 7 fill four pages; only a fifth, empty one, tells that there are no more. The number of
    # pages is found by doubling and halving, and then those that are missing are asked for
    server = serve([entry(i, {"Ta": 1, "W": 1, "B": 2}) for i in range(28)])
    table, _ = ingest(server, tmp_path)
    asked = [s for s in server.summonses if "nspecies(3)" in s]
    assert len(table) == 28
    assert [s.rsplit("$", 1)[1] for s in asked] == [f"paging({n},7)" for n in (1, 2, 4, 8, 6, 5, 3)]


def test_trial_takes_the_first_pages_only(serve, tmp_path):
    wanted, _ = wanted_and_others()
    table, _ = ingest(serve(wanted), tmp_path, aflow_max_pages=1)
    assert len(table) == 7 + 7 + 4 + 3  # of 30 ternaries, 21 borides, 4 Ta-W, 3 Ta
    assert table.about["complete"] is False


def test_rerun_reads_the_pages_that_are_there(serve, tmp_path):
    wanted, _ = wanted_and_others()
    server = serve(wanted)
    first, run = ingest(server, tmp_path)
    n_asked = len(server.summonses)
    pages = sorted((run.folder / "data" / "aflow_pages").iterdir())
    assert len(pages) == n_asked == first.about["pages"]
    pages[2].unlink()
    second, _ = ingest(server, tmp_path)
    assert len(server.summonses) == n_asked + 1
    assert second.id.tolist() == first.id.tolist()
    np.testing.assert_array_equal(second.frac_coords, first.frac_coords)


def test_other_parameters_do_not_reuse_pages(serve, tmp_path):
    wanted, _ = wanted_and_others()
    server = serve(wanted)
    ingest(server, tmp_path, aflow_sites=[1, 4])
    table, _ = ingest(server, tmp_path, aflow_sites=[4, 60])
    assert table.n_sites.min() == 4
    assert sorted(table.id) == sorted(e["auid"] for e in wanted if e["natoms"] >= 4)


def test_raw_pages_are_noted_with_their_checksum(serve, tmp_path):
    _, run = ingest(serve(wanted_and_others()[0]), tmp_path)
    noted = [name for name in run._inputs if "aflow_pages" in name]
    assert len(noted) == len(list((run.folder / "data" / "aflow_pages").iterdir()))


@pytest.mark.slow
def test_killed_run_goes_on_where_it_stopped(serve, tmp_path):
    wanted, _ = wanted_and_others()
    server = serve(wanted)
    expected, _ = ingest(server, tmp_path / "whole")
    n_pages = len(server.summonses)
    server.summonses.clear()
    server.delay = 0.3
    script = f"""
        from pathlib import Path
        from lib.datasets import sources
        from lib.studies.params import IngestParams
        from lib.core.run import Run
        params = IngestParams(source="aflow", aflow_url={server.url!r}, aflow_species=["W", "B", "Ta"],
                              aflow_page_size=7, aflow_pause=0, run="test")
        sources.load(params, Run(params, Path({str(tmp_path / "killed")!r})))
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT)
    folder = tmp_path / "killed" / "test" / "data" / "aflow_pages"
    deadline = time.time() + 60
    while len(list(folder.glob("[!.]*.json.gz"))) < 3 and time.time() < deadline and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    server.delay = 0
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*.json.gz")}
    assert 3 <= len(before) < n_pages
    server.summonses.clear()
    table, _ = ingest(server, tmp_path / "killed")
    assert len(server.summonses) == n_pages - len(before)
    assert all((folder / name).stat().st_mtime_ns == time_ for name, time_ in before.items())
    assert table.id.tolist() == expected.id.tolist()
    np.testing.assert_array_equal(table.formation_energy, expected.formation_energy)


# ------------------------------------------------------------------------------------------- malformed entries


SPOILT = [
    ({"enthalpy_formation_atom": None}, "no enthalpy_formation_atom"),
    ({"enthalpy_formation_atom": "nan"}, "enthalpy_formation_atom: Input should be a finite number"),
    ({"enthalpy_formation_atom": True}, "enthalpy_formation_atom: "),
    ({"spacegroup_relax": True}, "spacegroup_relax: "),
    ({"spacegroup_relax": 231}, "spacegroup_relax: Input should be less than or equal to 230"),
    ({"geometry": [3, 3, 3, 90, 90]}, "geometry: List should have at least 6 items"),
    ({"geometry": [3, 3, 3, 150, 60, 20]}, "geometry spans no cell"),
    ({"geometry": [3, 3, -3, 90, 90, 90]}, "geometry: Input should be greater than 0"),
    ({"composition": [3, 1, 0], "compound": "B3Ta1"}, "composition: Input should be greater than or equal to 1"),
    ({"geometry": [3, 3, "three", 90, 90, 90]}, "geometry: Input should be a valid number"),
    ({"positions_fractional": [[0, 0, 0]]}, "species, composition and positions_fractional differ in number"),
    ({"positions_fractional": None}, "positions_fractional: Input should be a valid list"),
    ({"compound": "Ta1W9"}, "compound differs from species and composition"),
    ({"species": ["B", "Ta", "Xq"], "compound": "B2Ta1Xq1"}, "unknown element Xq"),
]


@pytest.mark.parametrize("shape", ["array", "k of n"])
def test_malformed_entries_are_set_aside_with_the_reason(serve, tmp_path, monkeypatch, shape):
    good = [entry(i, {"Ta": 1, "W": 1, "B": 2}) for i in range(5)]
    bad = [entry(50 + i, {"Ta": 1, "W": 1, "B": 2}, **changes) for i, (changes, _) in enumerate(SPOILT)]
    monkeypatch.setattr(Aflux, "meets", staticmethod(lambda e, tests: dict(tests)["nspecies"](3)))
    server = serve([*good, *bad], shape)
    table, run = ingest(server, tmp_path)
    found = set_aside(run)
    assert sorted(table.id) == sorted(e["auid"] for e in good)
    reasons = dict(zip(found.auid, found.reason, strict=True))
    assert len(reasons) == len(SPOILT)
    for spoilt, (_, reason) in zip(bad, SPOILT, strict=True):
        assert reasons[spoilt["auid"]].startswith(reason)
    assert sum(table.about["set_aside"].values()) == len(SPOILT)
    assert table.about["set_aside"]["no enthalpy_formation_atom"] == 1
    assert (found.page.str.startswith("3_species-B-Ta_0000")).all()


def test_entries_that_are_no_objects_or_come_twice(serve, tmp_path):
    one = entry(1, {"Ta": 1, "W": 1, "B": 2})
    table, run = ingest(serve([one, dict(one), 17]), tmp_path)
    found = set_aside(run)
    assert table.id.tolist() == [one["auid"]]
    assert found.reason[found.auid == one["auid"]].tolist() == ["auid met before"]
    assert (found.reason == "no object").any()


def test_nothing_usable_is_said_so(serve, tmp_path):
    with pytest.raises(BadInput, match="'aflow' .*no usable crystal"):
        ingest(serve([entry(1, {"Mo": 2, "Ta": 2})]), tmp_path)


# -------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "faults",
    [
        [(503, "busy"), (502, "bad gateway"), (500, "internal")],
        [(429, "too many")],
        [(200, "DB Fail!null")],
        ["hang up"],
    ],
)
def test_passing_faults_are_waited_out(serve, tmp_path, faults):
    wanted, _ = wanted_and_others()
    server = serve(wanted)
    server.faults = list(faults)
    table, run = ingest(server, tmp_path)
    assert len(table) == len(wanted)
    assert len(server.summonses) == table.about["pages"] + len(faults)
    for path in (run.folder / "data" / "aflow_pages").iterdir():
        assert kept_entries(path) == entries_of(server.body(kept_head(path).url.partition("?")[2]), "")[0]


def test_waits_grow(monkeypatch):
    slept = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    monkeypatch.setattr(web, "FIRST_WAIT", 1.0)

    def busy():
        raise web.PassingFault("status 503 Service Unavailable")

    with pytest.raises(BadInput, match="page 1 .*7 attempts .*503"):
        web.patiently(busy, "page 1")
    assert len(slept) == web.ATTEMPTS - 1
    assert all(2**i <= wait <= min(2**i + 1, web.LONGEST_WAIT) for i, wait in enumerate(slept))


def test_server_that_stays_broken(serve, tmp_path):
    server = serve([])
    server.faults = [(503, "busy")] * 50
    with pytest.raises(BadInput, match="page 1 .*1_species .*503.*run again"):
        ingest(server, tmp_path)
    assert len(server.summonses) == web.ATTEMPTS


def test_nobody_listens(tmp_path):
    gone = Aflux([])
    gone.server_close()
    with pytest.raises(BadInput, match="7 attempts .*run again"):
        ingest(gone, tmp_path)


@pytest.mark.parametrize(
    ("answer", "quoted"),
    [
        ({"error": "LUX: keyword enthalpy_formation_atm is not in the schema"}, "enthalpy_formation_atm is not in"),
        ({"status": "fail", "message": "summons too long"}, "summons too long"),
        ("unbalanced parentheses", "unbalanced parentheses"),
        (["       Welcome to Aflux - The Aflow search API", "  an empty summons gives this help"], "Welcome to Aflux"),
        (17, "17"),
    ],
)
def test_errors_are_quoted_and_not_kept(serve, tmp_path, answer, quoted):
    server = serve([])
    server.faults = [(200, json.dumps(answer))]
    with pytest.raises(BadInput, match=f"AFLOW refuses .*{re.escape(quoted)}"):
        ingest(server, tmp_path)
    assert len(server.summonses) == 1  # asking again would not help
    assert not list(tmp_path.rglob("*.json.gz"))


def test_refused_request_is_quoted(serve, tmp_path):
    server = serve([])
    server.faults = [(400, "LUX cannot parse this")]
    with pytest.raises(BadInput, match="400 .*LUX cannot parse this"):
        ingest(server, tmp_path)
    with pytest.raises(BadInput, match="404.*no such page.*check the address"):
        ingest(server, tmp_path, aflow_url=server.url + "wrong/")


def test_unknown_keyword_is_an_error_of_this_server():
    assert Aflux([]).answer("auid,nsites(4*),$paging(1,5)") == {"error": "keyword nsites is not in the schema"}


def test_pages_shorter_than_asked_are_noticed(serve, tmp_path):
    server = serve([entry(i, {"Ta": 1, "W": 1, "B": 2}) for i in range(28)], "k of n")
    server.longest = 5
    with pytest.raises(BadInput, match="5 of 28 entries .*'aflow_page_size' to at most 5"):
        ingest(server, tmp_path)
    server.longest = 10**9  # a fault that passes
    assert len(ingest(server, tmp_path)[0]) == 28


NO_PAGES = ["null", "{}", '""', "false", "0", "", 100_000 * "[", 5000 * "9"]


@pytest.mark.parametrize("shape", ["array", "k of n"])
@pytest.mark.parametrize("answer", NO_PAGES, ids=lambda text: text[:5])
def test_what_is_no_page_is_not_the_end_and_not_kept(serve, tmp_path, answer, shape):
    server = serve([entry(i, {"Ta": 1, "W": 1}) for i in range(9)], shape)
    server.spoilt[("nspecies(2)", "paging(2,")] = answer
    with pytest.raises(BadInput, match="page 2 .*2_species-Ta .*run again"):
        ingest(server, tmp_path, aflow_species=["Ta", "W"])
    assert len([s for s in server.summonses if "paging(2," in s]) == web.ATTEMPTS
    server.spoilt.clear()
    table, _ = ingest(server, tmp_path, aflow_species=["Ta", "W"])
    assert len(table) == 9 and table.about["complete"] is True


def test_an_empty_page_is_not_the_end_of_more_entries(serve, tmp_path):
    server = serve([entry(i, {"Ta": 1, "W": 1}) for i in range(9)], "k of n")
    server.spoilt[("nspecies(2)", "paging(2,")] = "[]"
    with pytest.raises(BadInput, match="7 of 9 entries of 2_species-Ta.*page 2.*run again"):
        ingest(server, tmp_path, aflow_species=["Ta", "W"])
    server.spoilt.clear()
    assert len(ingest(server, tmp_path, aflow_species=["Ta", "W"])[0]) == 9


@pytest.mark.parametrize("shape", ["array", "k of n"])
def test_a_page_that_comes_again_is_no_new_page(serve, tmp_path, shape):
    entries = [entry(i, {"Ta": 1, "W": 1}) for i in range(14)]
    server = serve(entries, shape)
    first = entries[:7] if shape == "array" else {f"{i + 1} of 14": e for i, e in enumerate(entries[:7])}
    for page in range(1, 9):
        server.spoilt[("nspecies(2)", f"paging({page},")] = json.dumps(first)
    with pytest.raises(BadInput, match="page 2 .*2_species-Ta repeats .*run again"):
        ingest(server, tmp_path, aflow_species=["Ta", "W"])
    server.spoilt.clear()
    assert len(ingest(server, tmp_path, aflow_species=["Ta", "W"])[0]) == 14


def test_pages_that_tell_of_fewer_entries_are_not_the_end(serve, tmp_path):
    entries = [entry(i, {"Ta": 1, "W": 1}) for i in range(14)]
    server = serve(entries, "k of n")
    server.spoilt[("nspecies(2)", "paging(2,")] = json.dumps({"8 of 8": entries[7]})
    with pytest.raises(BadInput, match="gave 8 of 14 entries of 2_species-Ta"):
        ingest(server, tmp_path, aflow_species=["Ta", "W"])


def test_damaged_page_on_disk(serve, tmp_path):
    server = serve(wanted_and_others()[0])
    _, run = ingest(server, tmp_path)
    page = next((run.folder / "data" / "aflow_pages").iterdir())
    page.write_bytes(page.read_bytes()[:-20])
    with pytest.raises(BadInput, match=f"{re.escape(page.name)} .*delete it"):
        ingest(server, tmp_path)


# ------------------------------------------------------------------------------------------------ recorded pages


def recorded(name):
    path = RECORDED / name
    if not path.exists():
        pytest.skip(f"{path} is missing; set CRYSTAL_SHARED to the folder of shared data")
    return path.read_text()


def test_recorded_page_of_the_newer_shape():
    found, total = entries_of(recorded("list_page.json"), "recorded")
    assert (len(found), total) == (5, None)
    assert {read_entry(raw) for raw in found} == {"no enthalpy_formation_atom"}  # it was not asked for
    read = [read_entry(raw | {"enthalpy_formation_atom": 0.1}) for raw in found]
    assert [(e.compound, e.spacegroup_relax) for e in read][0] == ("N4", 51)
    assert read[0].numbers().tolist() == [7, 7, 7, 7]
    volumes = [np.linalg.det(e.lattice()) for e in read]
    assert volumes[0] == pytest.approx(1.3173 * 6.71612 * 7.29956, rel=1e-4)
    assert volumes[-1] == pytest.approx(1.55683**3 * 4 / 27**0.5, rel=1e-4)  # bcc, primitive


def test_recorded_page_of_the_older_shape():
    found, total = entries_of(recorded("k_of_n_page.json"), "recorded")
    assert (len(found), total) == (20, 912)
    assert found[0]["compound"] == "Be1O1"
    assert all(read_entry(raw) == "no enthalpy_formation_atom" for raw in found)
