import dataclasses
import functools
import hashlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.io.cif import CifWriter

from lib.core import web
from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import validated
from lib.core.run import Run
from lib.crystals.table import CrystalTable
from lib.datasets import sources
from lib.datasets.sources import embedded
from lib.studies.params import IngestParams
from lib.symmetry.cells import standardised

SHARED = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared"))
MP20 = SHARED / "data" / "mp_20" / "train.parquet"
TA_W_B = SHARED / "data" / "ta_w_b" / "cifs"


@functools.cache
def crystals():
    """Name -> structure, energy (eV/atom) and space group (International Tables)."""
    diboride = [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]
    return {
        "mp-1": (Structure.from_spacegroup(191, Lattice.hexagonal(3.1, 3.3), ["Ta", "B"], diboride), -0.65, 191),
        "mp-2": (Structure.from_spacegroup(225, Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3]), -2.1, 225),
        "mp-3": (Structure.from_spacegroup(225, Lattice.cubic(4.9), ["Na", "N"], [[0] * 3, [0.5] * 3]), 0.4, 225),
        "mp-4": (Structure(Lattice.orthorhombic(3, 4, 5), ["W", "Ta"], [[0, 0, 0], [0.1, 0.2, 0.3]]), 0.2, 1),
    }


def load(root, **values):
    params = validated(IngestParams, values | {"run": "test", "n_workers": 1})
    run = Run(params, root)
    return sources.load(params, run), run


def assert_holds_the_crystals(table):
    """In their primitive cells, though files give conventional ones."""
    matcher = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1, scale=False, primitive_cell=False)
    assert len(table) == len(crystals())
    for i, name in enumerate(table.id):
        structure, energy, _ = crystals()[Path(name).stem]
        assert matcher.fit(standardised(structure), table.structure(i))
        assert np.linalg.det(table.lattice[i]) > 0 and table.n_sites[i] == {"mp-1": 3}.get(Path(name).stem, 2)
        assert table.formation_energy[i] == pytest.approx(energy)


# ------------------------------------------------------------------------------------------------------ embedded


def test_embedded_set_is_the_default(tmp_path):
    table, run = load(tmp_path)
    assert len(table) > 500
    assert "chgnet" in table.energy_kind
    assert "not those of DFT" in table.about["description"]
    facts = sources.facts(table)
    assert facts.value["crystals"] == len(table)
    assert facts.value["potential"].startswith("CHGNet")
    assert any("embedded.parquet" in name for name in run._inputs)


def test_embedded_set_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path / "embedded.parquet")
    with pytest.raises(BadInput, match="embedded.parquet .*check it out"):
        load(tmp_path)


def test_source_without_crystals(tmp_path, monkeypatch):
    empty = CrystalTable.from_structures([], id=[], formation_energy=[], energy_kind="none")
    monkeypatch.setattr(embedded, "EMBEDDED", empty.to_parquet(tmp_path / "embedded.parquet"))
    with pytest.raises(BadInput, match="'embedded' .*no usable crystal"):
        load(tmp_path)


# --------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path):
    """Structure files as users have them: symmetrised CIF, P1 CIF, POSCAR by name and by suffix; and the csv."""
    folder = tmp_path / "mine"
    folder.mkdir()
    names = []
    for (name, (structure, _, _)), kind in zip(crystals().items(), ["cif", "P1", "POSCAR", "vasp"], strict=True):
        path = (
            folder
            / {"cif": f"{name}.cif", "P1": f"{name}.CIF", "POSCAR": f"{name}.POSCAR", "vasp": f"{name}.vasp"}[kind]
        )
        if kind in ("cif", "P1"):
            path.write_text(str(CifWriter(structure, symprec=1e-3 if kind == "cif" else None)))
        else:
            structure.to_file(str(path), fmt="poscar")
        names.append(path.name)
    energies = [energy for _, energy, _ in crystals().values()]
    pd.DataFrame({"file": names, "formation_energy": energies}).to_csv(folder / "energies.csv", index=False)
    return folder


def load_files(folder, root):
    return load(root, source="files", files_folder=folder, files_energies=folder / "energies.csv")


def rewrite(folder, change):
    path = folder / "energies.csv"
    path.write_text(change(path.read_text()))


def test_files_of_every_kind(folder, tmp_path):
    table, run = load_files(folder, tmp_path)
    assert_holds_the_crystals(table)
    assert table.space_group.tolist() == [sg for *_, sg in crystals().values()]
    assert table.energy_kind == "formation energies of energies.csv"
    assert len(run._inputs) == 5


@pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")
def test_files_of_the_materials_project(tmp_path):
    names = sorted(path.name for path in TA_W_B.glob("*.cif"))
    csv = tmp_path / "e.csv"
    pd.DataFrame({"file": names, "formation_energy": np.arange(len(names)) / 10}).to_csv(csv, index=False)
    table, _ = load(tmp_path, source="files", files_folder=TA_W_B, files_energies=csv)
    assert len(table) == 20
    formulas = dict(zip(table.id, table.formula, strict=True))
    assert (formulas["mp-91.cif"], formulas["mp-50.cif"], formulas["mp-7832.cif"]) == ("W1", "Ta1", "B4W4")
    groups = dict(zip(table.id, table.space_group, strict=True))
    assert (groups["mp-91.cif"], groups["mp-1108.cif"]) == (229, 191)  # bcc W; TaB2 of AlB2 type


def test_cif_that_does_not_parse(folder, tmp_path):
    (folder / "mp-1.cif").write_text("data_TaB2\nloop_\n_atom_site_label\nTa1\n")
    with pytest.raises(BadInput, match="mp-1.cif: .*_cell_length_a"):
        load_files(folder, tmp_path)


def test_poscar_that_does_not_parse(folder, tmp_path):
    (folder / "mp-4.vasp").write_text("TaW\n1.0\n3 0 0\n")
    with pytest.raises(BadInput, match="mp-4.vasp: .*POSCAR"):
        load_files(folder, tmp_path)


def test_unknown_element_in_a_cif(folder, tmp_path):
    path = folder / "mp-2.CIF"
    path.write_text(path.read_text().replace("Na", "Qz"))
    with pytest.raises(BadInput, match="mp-2.CIF: .*Qz"):
        load_files(folder, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("-2.1", ""), "has no formation energy for mp-2.CIF but ''; give eV/atom"),
        (lambda t: t.replace("-2.1", "n/a"), "has no formation energy for mp-2.CIF but 'n/a'"),
        (lambda t: t.replace("-2.1", "inf"), "has no formation energy for mp-2.CIF but 'inf'"),
        (lambda t: t.replace("mp-2.CIF,-2.1\n", ""), "mp-2.CIF has no energy in .*; add a row or remove the file"),
        (lambda t: t + "mp-9.cif,0.1\n", "mp-9.cif is not in .*; add the file or remove its row"),
        (lambda t: t + "mp-2.CIF,-2.1\n", "mp-2.CIF stands more than once"),
        (lambda t: t.replace("formation_energy", "energy"), "with the columns file, formation_energy"),
        (lambda t: "", "does not read as csv"),
        (lambda t: t.replace("energy\n", "energy,formation_energy\n"), "column formation_energy twice"),
    ],
)
def test_energies_that_do_not_fit_the_files(folder, tmp_path, change, said):
    rewrite(folder, change)
    with pytest.raises(BadInput, match=said):
        load_files(folder, tmp_path)


def test_folder_or_csv_that_is_missing(folder, tmp_path):
    with pytest.raises(BadInput, match="elsewhere .*'files_folder'"):
        load(tmp_path, source="files", files_folder=tmp_path / "elsewhere", files_energies=folder / "energies.csv")
    with pytest.raises(BadInput, match="no.csv "):
        load(tmp_path, source="files", files_folder=folder, files_energies=folder / "no.csv")
    with pytest.raises(BadInput, match="'files' .*'files_energies'"):
        load(tmp_path, source="files", files_folder=folder)


# two NaCl cells of one crystal, two Na and one Cl (no real crystals): eV a cell, so that numbers are easy to check
TOTALS = {"Na1.cif": -1.5, "Na2.cif": -2.0, "Cl.cif": -4.0, "NaCl.cif": -7.0, "Na4Cl4.cif": -28.0}


@pytest.fixture
def totals(tmp_path):
    """A folder of crystals with total energies."""
    folder = tmp_path / "totals"
    folder.mkdir()
    rock_salt = Structure.from_spacegroup(225, Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
    structures = [
        Structure(Lattice.cubic(3), ["Na"], [[0] * 3]),
        Structure(Lattice.cubic(4.2), ["Na", "Na"], [[0] * 3, [0.5] * 3]),
        Structure(Lattice.cubic(5), ["Cl", "Cl"], [[0] * 3, [0.2, 0, 0]]),
        rock_salt.get_primitive_structure(),
        rock_salt,
    ]
    for name, structure in zip(TOTALS, structures, strict=True):
        (folder / name).write_text(str(CifWriter(structure)))
    pd.DataFrame({"file": list(TOTALS), "total_energy": TOTALS.values()}).to_csv(folder / "energies.csv", index=False)
    return folder


def load_totals(folder, root, **values):
    files = {"files_folder": folder, "files_energies": folder / "energies.csv", "files_energy": "total_energy"}
    return load(root, source="files", **files | values)


def test_total_energies_refer_to_the_lowest_elements_of_the_folder(totals, tmp_path):
    table, _ = load_totals(totals, tmp_path)
    # Na: min(-1.5 / 1, -2.0 / 2) = -1.5; Cl: -4 / 2 = -2; NaCl: -7 / 2 - (-1.5 - 2) / 2 = -1.75
    assert table.formation_energy.tolist() == pytest.approx([0.0, 0.5, 0.0, -1.75, -28 / 8 + 1.75])
    assert table.about["element_energies_eV_per_atom"] == {"Cl": -2.0, "Na": -1.5}
    assert table.energy_kind == "formation energies from total energies of energies.csv, elements of totals"


@pytest.mark.parametrize(
    ("name", "text"),
    [("refs.csv", "element,energy\nNa,-1.0\nCl,-3.0\nNo,-9\n"), ("refs.yaml", "Na: -1.0\nCl: -3.0\nNo: -9\n")],
)
def test_total_energies_refer_to_a_file_of_elements(totals, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table, run = load_totals(totals, tmp_path, files_references=tmp_path / name)
    assert table.formation_energy.tolist() == pytest.approx([-0.5, 0.0, 1.0, -1.5, -1.5])
    assert table.about["element_energies_eV_per_atom"] == {"Cl": -3.0, "Na": -1.0}
    assert table.energy_kind.endswith(f"elements of {name}") and any(name in path for path in run._inputs)


def test_elements_without_a_reference_are_all_named(totals, tmp_path):
    for name in ("Na1.cif", "Na2.cif", "Cl.cif"):
        (totals / name).unlink()
        rewrite(totals, lambda t, name=name: re.sub(f"^{name},.*\n", "", t, flags=re.M))
    with pytest.raises(BadInput, match="totals .*Cl, Na.*'files_references'"):
        load_totals(totals, tmp_path)
    (tmp_path / "refs.csv").write_text("element,energy\nNa,-1.0\n")
    with pytest.raises(BadInput, match="refs.csv .* Cl "):
        load_totals(totals, tmp_path, files_references=tmp_path / "refs.csv")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("refs.csv", "element,energy\nNa,-1.0\nQz,-3.0\n", "names Qz, which is no element"),
        ("refs.csv", "element,energy\nNa,-1.0\nNa,-3.0\n", "gives Na more than once"),
        ("refs.csv", "element,energy\nNa,low\n", "has no energy for Na but 'low'; give eV/atom"),
        ("refs.csv", "symbol,energy\nNa,-1\n", "with the columns element, energy"),
        ("refs.yaml", "- Na\n", "is no YAML mapping"),
        ("refs.yaml", "Na: [\n", "does not read as YAML"),
    ],
)
def test_references_that_cannot_be_used(totals, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=said):
        load_totals(totals, tmp_path, files_references=tmp_path / name)


def test_references_that_are_missing_or_useless(totals, folder, tmp_path):
    for name in ("no.csv", "no.yaml"):
        with pytest.raises(BadInput, match=f"{name} "):
            load_totals(totals, tmp_path, files_references=tmp_path / name)
    with pytest.raises(BadInput, match="'files_references' .*total_energy"):
        load_totals(totals, tmp_path, files_energy="formation_energy_per_atom", files_references=tmp_path / "no.csv")
    with pytest.raises(BadInput, match="file, total_energy"):
        load_totals(folder, tmp_path)


# ---------------------------------------------------------------------------------------------------------- mp20


def write_csv(path, **changes):
    """As CDVAE writes it: an index column, a formula column, a CIF in P1."""
    rows = [
        {
            "material_id": name,
            "formation_energy_per_atom": energy,
            "band_gap": 0.0,
            "pretty_formula": structure.composition.reduced_formula,
            "e_above_hull": 0.0,
            "elements": str([e.symbol for e in structure.elements]),
            "cif": str(CifWriter(structure)),
            "spacegroup.number": group,
        }
        for name, (structure, energy, group) in crystals().items()
    ]
    pd.DataFrame(rows).assign(**changes).to_csv(path)
    return path


def write_parquet(path, **changes):
    columns = {
        "material_id": list(crystals()),
        "numbers": [list(s.atomic_numbers) for s, _, _ in crystals().values()],
        "frac": [s.frac_coords.ravel().tolist() for s, _, _ in crystals().values()],
        "formation_energy_per_atom": [energy for _, energy, _ in crystals().values()],
        "sg_spglib_0p01": [group for *_, group in crystals().values()],
        "pretty_formula": [s.composition.reduced_formula for s, _, _ in crystals().values()],
    }
    cells = np.array([s.lattice.parameters for s, _, _ in crystals().values()])
    columns |= dict(zip(["a", "b", "c", "alpha", "beta", "gamma"], cells.T, strict=True))
    pq.write_table(pa.table(columns | changes), path)
    return path


@pytest.mark.parametrize(("write", "name"), [(write_csv, "train.csv"), (write_parquet, "train.parquet")])
def test_mp20_csv_and_parquet(tmp_path, write, name):
    table, _ = load(tmp_path, source="mp20", mp20_path=write(tmp_path / name))
    assert_holds_the_crystals(table)
    assert table.space_group.tolist() == [sg for *_, sg in crystals().values()]
    assert (
        "NaN" in "".join(sorted(table.reduced_formula)) and table.formula[2] == "N1Na1"
    )  # sodium nitride, not missing
    assert table.energy_kind == "Materials Project formation energy"


def test_mp20_csv_takes_up_where_it_was_interrupted(tmp_path):
    path = write_csv(tmp_path / "train.csv")
    first, run = load(tmp_path, source="mp20", mp20_path=path)
    (piece,) = run.resume.iterdir()
    first.take(range(2)).to_parquet(piece)
    again, _ = load(tmp_path, source="mp20", mp20_path=path)
    assert again.id.tolist() == first.id[:2].tolist(), "what is finished is not read again"
    path.write_text(path.read_text().replace("mp-1", "mp-9"))
    other, _ = load(tmp_path, source="mp20", mp20_path=path)
    assert other.id[0] == "mp-9" and len(other) == 4, "another file is another matter"


def test_official_test_split_is_marked(tmp_path):
    train = write_parquet(tmp_path / "train.parquet")
    with pytest.raises(BadInput, match="train.parquet .*test.parquet"):
        load(tmp_path, source="mp20", mp20_path=train, mp20_test_path=write_parquet(tmp_path / "test.parquet"))
    frame = pd.read_parquet(train)
    test = tmp_path / "test.parquet"
    frame.assign(material_id="test-" + frame.material_id).to_parquet(test)
    table, run = load(tmp_path, source="mp20", mp20_path=train, mp20_test_path=test)
    assert table.extra["split"].tolist() == ["train"] * len(frame) + ["test"] * len(frame)
    assert len(run.finish()["inputs"]) == 2
    bare, _ = load(tmp_path, source="mp20", mp20_path=tmp_path / "train")
    assert bare.id.tolist() == frame.material_id.tolist(), "csv or parquet, whichever is there"


@pytest.mark.parametrize("column, file", [("energy_per_atom", "carbon_24"), ("heat_ref", "perov_5")])
def test_other_sets_of_the_same_form(tmp_path, column, file):
    source = MP20.parents[1] / file / "val.parquet"
    if not source.exists():
        pytest.skip(f"{source} is not here")
    few = pq.read_table(source).slice(0, 20)
    pq.write_table(few, path := tmp_path / "few.parquet")
    table, _ = load(tmp_path, source="mp20", mp20_path=path, mp20_energy=column)
    energy = few[column].to_numpy()
    np.testing.assert_allclose(table.formation_energy, energy - (energy.min() if file == "carbon_24" else 0), atol=1e-6)
    with pytest.raises(BadInput, match="formation_energy_per_atom"):
        load(tmp_path, source="mp20", mp20_path=path)
    if file == "perov_5":
        pq.write_table(few.append_column("energy_per_atom", few[column]), path)
        with pytest.raises(BadInput, match="of one element"):
            load(tmp_path, source="mp20", mp20_path=path, mp20_energy="energy_per_atom")


@pytest.mark.slow
@pytest.mark.skipif(not MP20.exists(), reason=f"{MP20} is not here")
def test_mp20_as_a_whole(tmp_path):
    table, run = load(tmp_path, source="mp20", mp20_path=MP20)
    raw = pd.read_parquet(MP20)
    assert len(table) == len(raw) == 12_467
    smaller = table.n_sites < raw.natoms
    assert 0 < smaller.sum() < 100 and (raw.natoms % table.n_sites == 0).all(), "some cells are not primitive"
    assert table.space_group.tolist() == raw.sg_spglib_0p01.tolist()
    np.testing.assert_allclose(table.formation_energy, raw.formation_energy_per_atom)
    assert (np.linalg.det(table.lattice) > 0).all()
    rows = np.random.default_rng(0).choice(len(raw), 30, replace=False)
    for i in rows:
        assert Composition(table.formula[i]).reduced_composition == Composition(raw.reduced_formula[i])
        cell = Lattice.from_parameters(*raw.loc[i, ["a", "b", "c", "alpha", "beta", "gamma"]])
        given = Structure(cell, raw.numbers[i], np.reshape(raw.frac[i], (-1, 3)))
        assert table.volume_per_atom[i] == pytest.approx(given.volume / len(given), rel=1e-5)
        if not smaller[i]:
            sums = [np.sort(s.distance_matrix.sum(0)) for s in (table.structure(i), given)]
            np.testing.assert_allclose(*sums, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.csv", lambda p: write_csv(p, formation_energy_per_atom=["", 1, 2, 3]), "no formation energy for mp-1"),
        ("a.csv", lambda p: write_csv(p, cif=["data_x"] * 4), "mp-1: it does not parse as CIF"),
        (
            "a.csv",
            lambda p: p.write_text("a,b\n1,2\n"),
            "does not read as csv with the columns",
        ),
        ("a.parquet", lambda p: write_parquet(p, formation_energy_per_atom=[0.0, None, 0.0, 0.0]), "energy for mp-2"),
        (
            "a.parquet",
            lambda p: write_parquet(p, numbers=[[73, 5, 5], [11] * 4 + [200] * 4, [11, 7] * 4, [74, 73]]),
            "200",
        ),
        (
            "a.parquet",
            lambda p: write_parquet(p, numbers=[[73, 5], [11, 17] * 4, [11, 7] * 4, [74, 73]]),
            "mp-1 in a.parquet: it has 2 atoms but 9 coordinates",
        ),
        (
            "a.parquet",
            lambda p: write_parquet(p, sg_spglib_0p01=[191, 231, 225, 1]),
            "mp-2 in a.parquet: its space group is 231",
        ),
        (
            "a.parquet",
            lambda p: write_parquet(p, numbers=[[73.7, 5, 5], [11.0, 17] * 4, [11.0, 7] * 4, [74.0, 73]]),
            "mp-1 in a.parquet: its atomic numbers .*73.7",
        ),
        (
            "a.parquet",
            lambda p: write_parquet(p, numbers=[["Ta", "B", "B"], ["11"] * 8, ["11"] * 8, ["74"] * 2]),
            "mp-1 in a.parquet: .*no numbers .*'Ta'",
        ),
        ("a.parquet", lambda p: p.write_bytes(write_parquet(p).read_bytes()[:-50]), "does not read as parquet"),
    ],
)
def test_mp20_that_is_damaged(tmp_path, name, write, said):
    path = tmp_path / name
    write(path)
    with pytest.raises(BadInput, match=said):
        load(tmp_path, source="mp20", mp20_path=path)


def test_mp20_that_is_missing(tmp_path):
    with pytest.raises(BadInput, match="train.csv .*get .*data/mp_20"):
        load(tmp_path, source="mp20", mp20_path=tmp_path / "train.csv")
    with pytest.raises(BadInput, match="'mp20' .*'mp20_path'"):
        load(tmp_path, source="mp20")
    with pytest.raises(BadInput, match="'mp20' .*'mp20_sha256'"):
        load(tmp_path, source="mp20", mp20_url="http://x.org/train.csv")


# ------------------------------------------------------------------------------------------------------- download


class FileServer(ThreadingHTTPServer):
    """Serves one file; `cuts` says after how many bytes the next answers break off, `announce` whether they tell."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), _FileHandler)
        self.content, self.cuts, self.announce, self.n_requests = content, [], True, 0
        self.url = f"http://127.0.0.1:{self.server_port}/data/train.parquet?raw=true"


class _FileHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.n_requests += 1
        if not self.path.startswith("/data/train.parquet"):
            return self.send_error(404)
        self.send_response(200)
        if server.announce:
            self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(server.content[:cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "FIRST_WAIT", 0.01)
    running = FileServer(write_parquet(tmp_path / "there.parquet").read_bytes())
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def load_url(server, root, **changes):
    values = {"mp20_url": server.url, "mp20_sha256": hashlib.sha256(server.content).hexdigest()}
    return load(root, source="mp20", **(values | changes))


def downloads(root):
    return sorted(path.name for path in (root / "test" / "data").glob("*"))


def test_download_comes_once(server, tmp_path):
    table, run = load_url(server, tmp_path)
    assert_holds_the_crystals(table)
    again, _ = load_url(server, tmp_path)
    assert server.n_requests == 1
    assert again.id.tolist() == table.id.tolist()
    assert downloads(tmp_path) == [f"mp20_{hashlib.sha256(server.content).hexdigest()[:12]}.parquet"]
    assert run._inputs == {f"data/{downloads(tmp_path)[0]}": hashlib.sha256(server.content).hexdigest()}


def test_download_that_breaks_off_starts_again(server, tmp_path):
    server.cuts = [500, 0, 2000]
    table, _ = load_url(server, tmp_path)
    assert_holds_the_crystals(table)
    assert server.n_requests == 4


def test_download_that_keeps_breaking_off(server, tmp_path):
    server.cuts = [500] * 50
    with pytest.raises(BadInput, match=f"{re.escape(server.url)} .*7 attempts"):
        load_url(server, tmp_path)
    assert downloads(tmp_path) == []


def test_truncated_download_of_unannounced_length(server, tmp_path):
    server.announce, server.cuts = False, [500]
    with pytest.raises(BadInput, match="has checksum .*, not .*; check the parameters 'mp20_url' and 'mp20_sha256'"):
        load_url(server, tmp_path)
    assert downloads(tmp_path) == []


def test_download_of_something_else(server, tmp_path):
    with pytest.raises(BadInput, match="has checksum"):
        load_url(server, tmp_path, mp20_sha256="0" * 64)
    with pytest.raises(BadInput, match="404.*check the address"):
        load_url(server, tmp_path, mp20_url=server.url.replace("train", "test"))


def test_damaged_copy_is_fetched_again(server, tmp_path):
    load_url(server, tmp_path)
    path = tmp_path / "test" / "data" / downloads(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-10])
    assert_holds_the_crystals(load_url(server, tmp_path)[0])
    assert server.n_requests == 2


def test_source_that_is_not_known():
    with pytest.raises(BadInput, match="'source' .*'oqmd'.*'mp20'"):
        validated(IngestParams, {"source": "oqmd"})


def test_tables_of_sources_do_not_mix(tmp_path):
    own, _ = load(tmp_path)
    other, _ = load(tmp_path, source="mp20", mp20_path=write_parquet(tmp_path / "train.parquet"))
    with pytest.raises(BadInput, match="energies of different kinds"):
        CrystalTable.join([dataclasses.replace(own, extra={}), other], about={})
