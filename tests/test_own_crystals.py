"""A user's own crystals: a folder of CIFs with total energies through notebook 01; the profile `mine`."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import papermill
import pytest
from pymatgen.io.cif import CifWriter

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import notebook_parameters, validated
from lib.core.run import Run
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable
from lib.datasets import sources
from lib.datasets.sources.embedded import EMBEDDED
from lib.report.runs import OUTPUTS
from lib.studies.model_plan import sizes_of, trainers
from lib.studies.params import IngestParams, TrainGenerationParams
from lib.training.checkpoints import Parent

RUN = "own_crystals_of_the_tests"
ELEMENTS = ["Nb", "W"]


@pytest.fixture(scope="module")
def some() -> CrystalTable:
    """Crystals of Nb and W, the pure elements among them, of at most 6 atoms."""
    table = CrystalTable.from_parquet(EMBEDDED)
    inside = np.isin(SYMBOLS[table.species], ELEMENTS)
    rows = np.flatnonzero(np.logical_and.reduceat(inside, table.offsets[:-1]) & (table.n_sites <= 6))
    pure = [row for row in rows if len(set(table.species_of(row))) == 1]
    others = np.setdiff1d(rows, pure)
    return table.take([*pure, *others[:: len(others) // 40]])


@pytest.fixture(scope="module")
def folder(some, tmp_path_factory):
    """CIFs, one crystal again in a double cell and one with a wrong energy; csv files of energies and references."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "structures").mkdir()
    references = {symbol: some.about["element_energies_eV_per_atom"][symbol] for symbol in ELEMENTS}
    structures = [*some.structures(), some.structure(9) * (1, 1, 2), some.structure(12)]
    energies = [*some.formation_energy, some.formation_energy[9], 3.0]
    rows = []
    for i, (structure, energy) in enumerate(zip(structures, energies, strict=True)):
        (folder / "structures" / f"{i:02d}.cif").write_text(str(CifWriter(structure)))
        total = sum(energy + references[site.specie.symbol] for site in structure)
        rows.append((f"{i:02d}.cif", total))
    pd.DataFrame(rows, columns=["file", "total_energy"]).to_csv(folder / "energies.csv", index=False)
    pd.DataFrame(references.items(), columns=["element", "energy"]).to_csv(folder / "refs.csv", index=False)
    return folder


@pytest.mark.slow
def test_notebook_01_reads_a_folder_with_total_energies(some, folder, tmp_path):
    values = notebook_parameters("01_aflow_ingest", "mine") | {"run": RUN, "n_workers": 1}
    values |= {"files_folder": str(folder / "structures"), "files_energies": str(folder / "energies.csv")}
    values |= {"files_references": str(folder / "refs.csv")}
    path = ROOT / "notebooks" / "01_aflow_ingest.ipynb"
    try:
        papermill.execute_notebook(path, tmp_path / "out.ipynb", values, cwd=ROOT, progress_bar=False)
        table = CrystalTable.from_parquet(OUTPUTS / RUN / "data" / "crystals.parquet")
        training = CrystalTable.from_parquet(OUTPUTS / RUN / "data" / "training.parquet")
        findings = pd.read_csv(OUTPUTS / RUN / "tables" / "check_up.csv").set_index("check")
    finally:
        shutil.rmtree(OUTPUTS / RUN, ignore_errors=True)
    last = len(some)
    assert np.abs(table.formation_energy[:last] - some.formation_energy).max() < 1e-5
    assert (table.space_group[:last] == some.space_group).all()
    assert f"09.cif = {last}.cif" in findings["first"]["duplicates"]
    assert findings["first"]["formation energy (eV/atom)"].split(",")[0] == f"{last + 1}.cif"
    assert len(training) == len(table) == last + 2, "the profile keeps them all"


def test_without_references_the_folders_own_elements_serve(some, folder, tmp_path):
    values = {"source": "files", "files_folder": folder / "structures", "files_energies": folder / "energies.csv"}
    params = validated(IngestParams, values | {"files_energy": "total_energy"})
    table = sources.load(params, Run(params, tmp_path))
    # the lowest crystals of the pure elements are the ground states that the embedded set refers to
    assert np.abs(table.formation_energy[: len(some)] - some.formation_energy).max() < 1e-5


def mine(**values) -> TrainGenerationParams:
    return validated(TrainGenerationParams, notebook_parameters("04_train_generation", "mine") | values)


@pytest.mark.slow
def test_the_profile_starts_from_shipped_weights_of_its_sizes(some, tmp_path):
    params = mine()
    assert params.compare_from_nothing and params.learning_curve
    weights = ROOT / params.init_weights
    if not weights.exists():
        with pytest.raises(BadInput, match="generation_mp20.safetensors .*name a finished model"):
            next(trainers(Run(params, root=tmp_path), "generation", some, some))
        return
    spec = Parent.read(weights).spec
    assert (spec.task, spec.network) == ("generation", "transformer")
    assert spec.method in params.methods and spec.sizes == sizes_of(params, "transformer")
    assert spec.state["n_sites"] >= notebook_parameters("01_aflow_ingest", "mine")["max_sites"]


def test_the_largest_crystal_may_be_in_validation(some, tmp_path):
    off = {
        "init_weights": None,
        "compare_from_nothing": False,
        "learning_curve": [],
        "long_model": None,
        "long_steps": None,
    }
    params = mine(run="trial", networks=["periodic", "transformer"], **off)
    small, large = some.take(some.n_sites <= 2), some.take(np.flatnonzero(some.n_sites == 6)[:5])
    for trainer in trainers(Run(params, root=tmp_path), "generation", small, large):
        assert trainer.rep.n_sites == {"periodic": 8, "transformer": 6}[trainer.spec.network]
