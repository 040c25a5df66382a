"""AFLOW ingest against a server that speaks AFLUX over a real socket: summonses, paging, both answer shapes, faults."""

import gzip
import hashlib
import json
import os
import re
import time
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spglib
from aflux_server import Aflux as Server
from aflux_server import as_text, entries, entry
from pymatgen.core import Lattice, Structure

from benchmarks import aflow_trials
from lib.core import web
from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.run import Run
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable
from lib.datasets import sources
from lib.datasets.sources import aflow
from lib.datasets.sources.aflow.aflux import Aflux
from lib.datasets.sources.aflow.entries import Entry, Scale, read_entry
from lib.datasets.sources.aflow.pages import entries_of, kept_entries, kept_head
from lib.datasets.sources.aflow.rows import checked_row, quick_row, read_pages
from lib.studies.params import IngestParams
from lib.symmetry.cells import SETTING, SYMPREC, standardised
from lib.symmetry.wyckoff import primitive_operations

RECORDED = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared")) / "data" / "aflux"


@pytest.fixture
def serve(running):
    """Starts servers of entries, which end with the test."""
    return lambda entries, shape="array": running(Server(entries, shape))


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
    # 28 ternaries in pages of 7 fill four pages; only a fifth, empty one, tells that there are no more. Page 21 tells
    # that the query is not too long, doubling and halving how many pages there are; then the missing one is asked for
    server = serve([entry(i, {"Ta": 1, "W": 1, "B": 2}) for i in range(28)])
    table, _ = ingest(server, tmp_path)
    asked = [s for s in server.summonses if "nspecies(3)" in s]
    assert len(table) == 28
    assert [s.rsplit("$", 1)[1] for s in asked] == [f"paging({n},7)" for n in (1, 21, 2, 4, 8, 6, 5, 3)]


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


def test_pages_are_kept_with_what_was_asked_when(serve, tmp_path):
    server = serve(wanted_and_others()[0])
    _, run = ingest(server, tmp_path)
    page = sorted((run.folder / "data" / "aflow_pages").iterdir())[0]
    head, (line, answer) = kept_head(page), gzip.decompress(page.read_bytes()).split(b"\n", 1)
    assert json.loads(line)["url"] == head.url and server.url + "?auid,species(B:Ta:W),nspecies(1)" in head.url
    assert answer == server.body(unquote(head.url.partition("?")[2]))
    assert (head.sha256, head.size) == (hashlib.sha256(answer).hexdigest(), len(answer))
    assert abs(datetime.now(UTC) - datetime.fromisoformat(head.asked)).total_seconds() < 600


@pytest.mark.slow
def test_killed_ingests_go_on_where_they_stopped(tmp_path):
    changes = {"aflow_page_size": 100, "aflow_shard_size": 500, "aflow_pause": 0.02, "n_workers": 1}
    table, wrong = aflow_trials.kills(2000, 3, tmp_path, **changes)
    assert len(table) == 3 and wrong == 0


def test_a_page_asked_for_again_and_another_table_count_as_wrong(tmp_path, monkeypatch):
    for name, crystals in (("one", 3), ("two", 3), ("three", 2)):
        for file in ("crystals", "rejects"):
            path = tmp_path / name / "standin" / "data" / f"{file}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"id": range(crystals)}), path)
    assert aflow_trials._same(tmp_path / "one", tmp_path / "two")
    assert not aflow_trials._same(tmp_path / "one", tmp_path / "three")


# ---------------------------------------------------------------------------------------------- queries and plans


def extent(server, folder, **changes):
    """The queries that are asked for in the end, with their pages."""
    about = {"source": "aflow", "aflow_url": server.url, "aflow_species": ["W", "B", "Ta"], "aflow_pause": 0}
    params = IngestParams(**about | {"aflow_page_size": 7} | changes)
    with web.client(params.aflow_contact) as http:
        aflux = Aflux(params, folder, http)
        surveyed = aflux.survey(aflow.queries(params))
        aflux.fetch(surveyed)
    return surveyed, params


def auids(surveyed):
    return sorted(raw["auid"] for a in surveyed for path in a.paths.values() for raw in kept_entries(path))


@pytest.mark.parametrize("shape", ["array", "k of n"])
def test_long_queries_are_split_until_no_page_is_deep(serve, tmp_path, shape):
    wanted, others = wanted_and_others()
    server = serve([*wanted, *others], shape)
    surveyed, _ = extent(server, tmp_path, aflow_deepest_page=2)
    assert auids(surveyed) == sorted(e["auid"] for e in wanted)
    names = [a.query.name for a in surveyed]
    assert {"2_species-B-LIB3-Ta_to_Ta", "2_species-B-LIB2"} & {*names} and "2_species-B" not in names
    splittable = [a for a in surveyed if a.query.parts()]
    assert splittable and all(a.n_pages <= 2 for a in splittable)  # 30 Ta-W-B of one catalog stay five pages


@pytest.mark.parametrize("deepest", [1, 20])
def test_inclusive_queries_give_all_that_hold_the_elements(serve, tmp_path, deepest):
    wanted, others = wanted_and_others()
    changes = {"aflow_species": ["Ta", "B"], "aflow_inclusive": True, "aflow_max_species": 4}
    surveyed, _ = extent(serve([*wanted, *others]), tmp_path, aflow_deepest_page=deepest, **changes)
    fits = [
        e
        for e in [*wanted, *others]
        if {"Ta", "B"} <= {*e["species"]}
        and e["natoms"] <= 60
        and e["catalog"] != "ICSD"
        and e["dft_type"] == ["PAW_PBE"]
    ]
    assert auids(surveyed) == sorted(e["auid"] for e in fits) and any(len(e["species"]) == 4 for e in fits)


def test_inclusive_queries_that_nothing_meets_are_refused():
    params = IngestParams(source="aflow", aflow_species=["Ta", "W", "B"], aflow_inclusive=True, aflow_max_species=2)
    with pytest.raises(BadInput, match="3 of 'aflow_species'.*'aflow_max_species'"):
        aflow.queries(params)


@pytest.mark.parametrize("shape", ["array", "k of n"])
def test_plan_tells_what_will_come_before_it_comes(serve, tmp_path, shape):
    wanted, _ = wanted_and_others()
    server = serve(wanted, shape)
    about = {"source": "aflow", "aflow_url": server.url, "aflow_species": ["W", "B", "Ta"], "aflow_pause": 3.6}
    params = IngestParams(**about | {"aflow_page_size": 2, "n_workers": 1})
    with web.client() as http:
        aflux = Aflux(params.model_copy(update={"aflow_pause": 0.0}), tmp_path, http)
        surveyed = aflux.survey(aflow.queries(params))
        plan = aflow.Plan.of(surveyed, params, tmp_path)
        missing = plan.pages - plan.kept
        assert plan.entries == len(wanted) and missing > 0
        assert plan.hours == pytest.approx(missing * 0.001)  # 3.6 s each
        before = len(server.summonses)
        aflux.fetch(surveyed)
    assert len(server.summonses) == before + missing
    came = sum(head.size for a in surveyed for head in a.heads.values())
    assert plan.megabytes * 1e6 == pytest.approx(came * (len(wanted) - 2 * plan.kept) / len(wanted), rel=0.3)


def test_too_small_a_disk_is_said_before_pages_are_fetched(serve, tmp_path, monkeypatch):
    server = serve([entry(i, {"Ta": 1, "W": 1, "B": 2}) for i in range(60)])
    monkeypatch.setattr(aflow.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(BadInput, match="60 AFLOW entries.*0.00 GB are free; free some space"):
        ingest(server, tmp_path)
    assert not any("paging(3," in s for s in server.summonses)


def test_requests_are_few_at_a_time_spaced_and_signed(serve, tmp_path):
    server = serve(wanted_and_others()[0])
    server.delay = 0.05
    started = time.monotonic()
    extent(server, tmp_path, aflow_connections=3, aflow_pause=0.03, aflow_contact="mailto:someone@example.org")
    assert time.monotonic() - started >= 0.03 * (len(server.summonses) - 1)
    assert 1 < server.busiest <= 3
    assert server.agents == {f"{web.AGENT} mailto:someone@example.org"} and "conditional-crystals" in web.AGENT


def test_entries_that_are_added_meanwhile_are_fetched_and_told(serve, tmp_path):
    server = serve([entry(i, {"Ta": 1, "W": 1}) for i in range(14)], "k of n")
    server.added = (3, [entry(50 + i, {"Ta": 1, "W": 1}) for i in range(3)])  # after page 1 of each of two queries
    table, run = ingest(server, tmp_path, aflow_species=["Ta", "W"])
    assert len(table) == 17
    told = pd.read_csv(run.folder / "tables" / "aflow_queries.csv", index_col="query").loc["2_species-Ta"]
    assert (told["told first"], told["told last"], told["received"]) == (14, 17, 17)
    assert "14" in told["count changed"] and "17" in told["count changed"]


def test_entries_that_vanish_meanwhile_are_no_end(serve, tmp_path):
    entries = [entry(i, {"Ta": 1, "W": 1}) for i in range(14)]
    server = serve(entries, "k of n")
    server.spoilt[("nspecies(2)", "paging(1,")] = json.dumps({f"{i + 1} of 15": e for i, e in enumerate(entries[:7])})
    with pytest.raises(BadInput, match="page 3.*2_species-Ta.*run again"):
        ingest(server, tmp_path, aflow_species=["Ta", "W"])
    server.spoilt.clear()
    assert len(ingest(server, tmp_path, aflow_species=["Ta", "W"])[0]) == 14


def test_smaller_pages_than_asked_for_are_no_ends(serve, tmp_path):
    server = serve([entry(i, {"Ta": 1, "W": 1, "B": 2}) for i in range(28)])
    server.longest = 5
    with pytest.raises(BadInput, match="5 entries where 7 are asked for.*'aflow_page_size'"):
        ingest(server, tmp_path)


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
    monkeypatch.setattr(Server, "meets", staticmethod(lambda e, tests: dict(tests)["nspecies"](3)))
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
    gone = Server([])
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
    assert Server([]).answer("auid,nsites(4*),$paging(1,5)") == {"error": "keyword nsites is not in the schema"}


def test_pages_shorter_than_asked_are_noticed(serve, tmp_path):
    server = serve([entry(i, {"Ta": 1, "W": 1, "B": 2}) for i in range(28)], "k of n")
    server.longest = 5
    with pytest.raises(BadInput, match="5 of 28 entries .*'aflow_page_size' to at most 5"):
        ingest(server, tmp_path)
    server.longest = 10**9  # a fault that passes
    assert len(ingest(server, tmp_path)[0]) == 28


NO_PAGES = ["null", "{}", '""', "false", "0", "", 100_000 * "[", 5000 * "9"]


@pytest.mark.slow
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


@pytest.mark.slow
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


# ------------------------------------------------------------------------------- what the entries become


ODD = [None, True, "", "null", "nan", "1e999", " 1", "1_0", "1,2", "x", 0, -1, 1.0, 2.5, 10**400, [], [1], ["B"], {}]
ODD += ["B,Ta,W", "1,1,2", "1;2;3", [[0, 0, 0]], [[0, 0]], [1, True, 2], ["1", "1", "2"], [1.0, 1.0, 2.0], "B1", [None]]


@pytest.mark.parametrize("field", [*Entry.model_fields, "natoms"])
@pytest.mark.parametrize("textual", [False, True])
def test_a_quick_look_has_the_verdict_of_a_close_one(field, textual):
    whole = entry(7, {"B": 2, "Ta": 1, "W": 1}, ldau_type=0)
    whole = {k: as_text(v) for k, v in whole.items()} if textual else whole
    without = {k: v for k, v in whole.items() if k != field}
    species = [{"species": s, "compound": c} for s, c in ((["Ta", "B", "W"], "Ta2B1W1"), (["B", "B", "W"], "B2B1W1"))]
    tried = [whole, without, *(whole | {field: odd} for odd in ODD), *(whole | change for change in species)]
    plain = 0
    for raw in tried:
        quick, close = quick_row(raw), read_entry(raw)
        plain += quick is not None
        if quick is not None:
            assert isinstance(close, Entry) and tuple(quick) == tuple(checked_row(close)), raw[field]
        table, rejects = read_pages([("page", [raw])], Scale("PAW_PBE", 0))
        if isinstance(close, str):
            assert [r.reason for r in rejects] == [close]
        else:
            assert len(table) == 1 or "another scale" in rejects[0].reason
    assert plain >= 1


@pytest.mark.parametrize("textual", [False, True])
def test_every_usual_entry_is_read_at_a_quick_look(textual):
    usual = list(islice(entries(3), 200))
    raws = [{k: as_text(v) for k, v in e.items()} for e in usual] if textual else usual
    assert [tuple(quick_row(raw)) for raw in raws] == [tuple(checked_row(read_entry(raw))) for raw in raws]


def test_rejects_are_kept_as_they_came(serve, tmp_path):
    good, bad = entry(1, {"Ta": 1, "W": 1}), entry(2, {"Ta": 1, "W": 1}, spacegroup_relax=0)
    _, run = ingest(serve([good, bad]), tmp_path)
    (reject,) = pq.read_table(run.folder / "data" / "rejects.parquet").to_pylist()
    assert reject["auid"] == bad["auid"] and reject["reason"].startswith("spacegroup_relax")
    assert json.loads(reject["raw"])["positions_fractional"] == bad["positions_fractional"]


def test_energies_of_other_scales_are_set_aside(serve, tmp_path):
    with_u = entry(2, {"Ta": 1, "W": 1}, ldau_type=2)
    kin = entry(3, {"Ta": 1, "W": 1}, dft_type=["PAW_PBE", "PAW_PBE_KIN"])
    server = serve([entry(1, {"Ta": 1, "W": 1}), with_u, kin])
    table, run = ingest(server, tmp_path)
    assert table.about["set_aside"] == {
        "energy of another scale: +U (ldau_type 2)": 1,
        "energy of another scale: PAW_PBE_KIN": 1,
    }
    assert [table.extra[name].tolist() for name in ("functional", "ldau_type", "correction", "aflowlib_date")] == [
        ["PAW_PBE"],
        [0],
        ["none"],
        [20200524],
    ]
    other, _ = ingest(server, tmp_path / "with_u", aflow_ldau_type=2)
    assert other.id.tolist() == [with_u["auid"]] and other.energy_kind == "AFLOW PAW_PBE+U (type 2) formation enthalpy"
    with pytest.raises(BadInput, match="different kinds"):
        CrystalTable.join([table, other], about={})


def test_a_structure_of_two_catalogs_stays_in_the_first(serve, tmp_path):
    one = entry(1, {"Ta": 1, "W": 1, "B": 2}, catalog="LIB2")
    cell = np.array(one["positions_fractional"])
    twin = one | {"auid": "aflow:2", "catalog": "LIB3", "positions_fractional": (cell + 0.25).round(6).tolist()}
    same_catalog = twin | {"auid": "aflow:3", "catalog": "LIB2"}
    other = entry(4, {"Ta": 1, "W": 1, "B": 2}, catalog="LIB3")
    server = serve([twin, one, other, same_catalog])
    table, run = ingest(server, tmp_path)
    assert sorted(table.id) == sorted([one["auid"], "aflow:3", other["auid"]])
    assert set_aside(run).auid.tolist() == ["aflow:2"]
    table, _ = ingest(server, tmp_path, aflow_catalogs=["LIB3", "LIB2"])
    assert sorted(table.id) == sorted(["aflow:2", other["auid"]])


CONVENTIONAL = [  # as AFLOW might list them: conventional, primitive, and in another basis
    (Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.4), ["Ta", "B"], [[0, 0, 0], [0.5, 0.5, 0.5]]), 225),
    (
        Structure.from_spacegroup("I4/mcm", Lattice.tetragonal(5.8, 4.8), ["B", "Ta"], [[0, 0, 0.25], [0.17, 0.67, 0]]),
        140,
    ),
    (Structure.from_spacegroup("R-3m", Lattice.hexagonal(3.1, 20.9), ["B", "W"], [[0, 0, 0.33], [0, 0, 0.07]]), 166),
    (
        Structure.from_spacegroup(
            "Cmcm", Lattice.orthorhombic(3.3, 8.7, 3.2), ["B", "Ta"], [[0, 0.44, 0.25], [0, 0.15, 0.25]]
        ),
        63,
    ),
    (
        Structure.from_spacegroup(
            "P6_3/mmc", Lattice.hexagonal(3, 14), ["B", "W"], [[1 / 3, 2 / 3, 0.05], [1 / 3, 2 / 3, 0.64]]
        ),
        194,
    ),
]


def as_entry(number, structure, space_group):
    """The crystal as AFLOW lists it."""
    structure = structure.get_sorted_structure(key=lambda site: site.specie.symbol)
    counts = Counter(site.specie.symbol for site in structure)
    return entry(number, dict(counts)) | {
        "geometry": structure.lattice.parameters,
        "positions_fractional": structure.frac_coords.round(7).tolist(),
        "spacegroup_relax": space_group,
        "catalog": "LIB2",
    }


def test_listed_operations_map_every_crystal_onto_itself(serve, tmp_path):
    """The table holds reduced primitive cells, which spglib's conventional operators do not act on; the operations of
    the crystal's own group in its standard primitive cell do, and the table's crystals are these."""
    described = []
    for structure, group in CONVENTIONAL:
        primitive = structure.get_primitive_structure()
        turned = primitive.copy()
        turned.make_supercell([[1, 1, 0], [0, 1, 0], [0, 1, 1]])
        described += [(one, group) for one in (structure, primitive, turned)]
    raws = [as_entry(i, *one) for i, one in enumerate(described)]
    table, _ = ingest(serve(raws), tmp_path)
    assert table.about["setting"] == SETTING and sorted(table.id) == sorted(raw["auid"] for raw in raws)
    hashes = dict(zip(table.id.tolist(), table.extra["structure_hash"].tolist(), strict=True))
    for i in range(len(table)):
        lattice, species = table.lattice[i], table.species_of(i)
        number = int(table.id[i].removeprefix("aflow:"), 16)
        assert table.n_sites[i] == len(described[number][0].get_primitive_structure())
        assert hashes[table.id[i]] == hashes[raws[number - number % 3]["auid"]]
        found = spglib.get_symmetry((lattice, table.frac_coords_of(i), species), SYMPREC)
        unit = table.unit_of(i)
        listed = primitive_operations(int(table.space_group[i]))
        assert unit.symmetry == table.space_group[i] and len(listed[0]) == len(found["rotations"])
        cells = [(table.frac_coords_of(i), species, lattice, found["rotations"], found["translations"])]
        for frac_coords, atoms, cell, rotations, translations in [
            *cells,
            (unit.frac_coords, unit.species, unit.lattice, *listed),
        ]:
            for rotation, translation in zip(rotations, translations, strict=True):
                apart = (frac_coords @ rotation.T + translation)[:, None] - frac_coords
                distance = np.linalg.norm((apart - np.round(apart)) @ cell, axis=-1)
                assert (np.where(atoms[:, None] == atoms, distance, 9).min(1) < 3 * SYMPREC).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"), [(n, f.of[i % len(f.of)]) for i, (n, f) in enumerate(aflow_trials.FAULTS.items())]
)
def test_no_entry_is_lost_or_doubled_by_a_fault(tmp_path, name, shape):
    row = aflow_trials.try_fault(name, shape, tmp_path)
    assert row["entries lost"] == row["duplicates"] == 0
    fault = aflow_trials.FAULTS[name]
    assert row["faulty"] == len(fault.answers) - fault.answers.count(None)


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
