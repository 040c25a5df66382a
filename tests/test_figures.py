"""Pictures of structures against geometry worked out by hand, and the viewer in a real browser."""

from __future__ import annotations

import io
import json
import re
import sys
from itertools import combinations, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from pymatgen.core import Lattice, Structure

from lib.core.run import Run
from lib.energies.hull import Hull
from lib.figures import data, inference, matching, model, structures, study
from lib.figures.style import colour_of, subplots
from lib.models.paper_state import PaperTensors
from lib.models.unet import PaperNet, ResBlock, Stage, UNetSizes, describe
from lib.studies.params import DatasetParams


@pytest.fixture
def rock_salt() -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def triclinic() -> Structure:
    return Structure(Lattice.from_parameters(4, 5, 12, 70, 80, 110), ["Ti", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_atoms_on_faces_are_drawn_on_every_face(rock_salt):
    view = structures.scene(rock_salt)
    # one sodium on 8 corners, three on 6 faces; one chlorine in the centre, three on 12 edges
    assert np.bincount(view.numbers)[[11, 17]].tolist() == [8 + 6, 12 + 1]
    assert len(np.unique(view.positions.round(4), axis=0)) == 27


def test_atoms_just_inside_a_face_count_as_on_it():
    near = Structure(Lattice.cubic(4), ["W", "B"], [[0.99, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert np.bincount(structures.scene(near).numbers)[[5, 74]].tolist() == [1, 2]


def test_view_is_a_rotation_with_c_upwards_and_a_to_the_right(triclinic):
    view = structures.scene(triclinic)
    along = view.edges[:, 1] - view.edges[:, 0]
    assert np.sort(np.linalg.norm(along, axis=1)) == pytest.approx([4] * 4 + [5] * 4 + [12] * 4)
    c, a = along[np.linalg.norm(along, axis=1) > 11][0], along[np.linalg.norm(along, axis=1) < 4.5][0]
    assert c[1] > 11 and abs(c[0]) < 1e-9
    assert a[0] > 3
    centre = view.positions[view.numbers == 26][0]
    corners = view.positions[view.numbers == 22]
    from_centre = np.array(list(product((-0.5, 0.5), repeat=3))) @ triclinic.lattice.matrix
    expected = np.sort(np.linalg.norm(from_centre, axis=1))
    assert np.sort(np.linalg.norm(corners - centre, axis=1)) == pytest.approx(expected)


def test_nearer_atom_hides_the_one_behind_it():
    edges = np.array([[[-3, -3, -3], [3, -3, -3.0]]])
    for front in (73, 5):
        behind = {73: 5, 5: 73}[front]
        view = structures.Scene(np.array([[0, 0, 2.0], [0, 0, -2]]), np.array([front, behind]), edges, np.eye(3))
        image, (left, right, bottom, top) = structures._render(view, 0.02)
        row, column = int(len(image) * top / (top - bottom)), int(image.shape[1] * -left / (right - left))
        seen = image[row, column, :3]
        assert image[row, column, 3] == 1
        distance = {z: np.abs(seen / seen.max() - c / c.max()).sum() for z, c in enumerate(structures.ELEMENT_COLOURS)}
        assert distance[front] < distance[behind]
        assert image[0, 0, 3] == 0


def test_tantalum_tungsten_and_boron_can_be_told_apart():
    colours = structures.ELEMENT_COLOURS[[73, 74, 5]]
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)[np.triu_indices(3, 1)]
    assert apart.min() > 0.4


def test_gallery_draws_each_structure_with_axes_at_one_scale_and_its_elements(rock_salt, triclinic):
    figure = structures.gallery([rock_salt, triclinic, rock_salt], ["one", "two", "three"], columns=2)
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == ["one", "two", "three"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["Na", "Cl", "Ti", "Fe"]
    assert all({"a", "b", "c"} <= {text.get_text() for text in axes.texts} for axes in drawn)
    figure.draw_without_rendering()
    scales = [axes.transData.transform([[0, 0], [1, 1]]) for axes in drawn]
    assert np.ptp([corners[1] - corners[0] for corners in scales], axis=0) == pytest.approx([0, 0], abs=1e-6)
    plt.close(figure)


def test_bonds_join_neighbours_of_which_one_is_no_metal(rock_salt):
    view = structures.scene(rock_salt)
    pairs = structures._bonds(view.positions, view.numbers)
    assert {tuple(sorted(view.numbers[pair])) for pair in pairs} == {(11, 17)}
    assert np.linalg.norm(np.diff(view.positions[pairs], axis=1), axis=2) == pytest.approx(5.69 / 2)
    assert len(pairs) == 54, "27 atoms on the points of a grid of 2 x 2 x 2 cubes, which has 54 edges"
    oxide = structures.scene(Structure.from_spacegroup(225, Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5] * 3]))
    pairs = structures._bonds(oxide.positions, oxide.numbers)
    assert {tuple(sorted(oxide.numbers[pair])) for pair in pairs} == {(8, 12)}, "metals as near as radii allow"
    metal = structures.scene(Structure(Lattice.cubic(3.17), ["W", "W"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    assert len(structures._bonds(metal.positions, metal.numbers)) >= 8, "metals alone are joined to each other"


def empty(columns: str) -> pd.DataFrame:
    return pd.DataFrame(columns=columns.split())


NOTHING = {
    "funnel": lambda: data.funnel(pd.DataFrame({"step": ["all", "4 to 60"], "structures": 9, "groups": 2})),
    "groups of one": lambda: data.group_sizes(np.array([1, 1, 2]), (7, 71)),
    "pairs": lambda: data.energy_drops({"training": np.empty(0)}),
    "gallery": lambda: structures.gallery([], []),
    "untrained": lambda: model.loss_curves({"generation_paper_ddpm": pd.DataFrame({"step": [0], "validation": 0.8})}),
    "one number of atoms": lambda: matching.by_n_sites(pd.DataFrame({"n_sites": [6, 6]})),
    "one number of steps": lambda: matching.by_steps(pd.DataFrame({"steps": [5]})),
    "rmsd": lambda: matching.rmsd({"random": np.empty(0)}),
    "energies": lambda: inference.energies_obtained(empty("method energy formation_energy")),
    "space groups": lambda: inference.groups_obtained(empty("method status allowed").astype({"allowed": bool})),
    "modification": lambda: inference.modified_energies(empty("method before target after")),
    "relaxation": lambda: inference.preoptimisation(empty("method status")),
    "binary hull": lambda: inference.ternary_hull(["B", "W"], empty("formula"), np.empty((0, 2, 2)), empty("formula")),
    "Table 3": lambda: inference.distances_from_hull(empty("method experiment formula n says"), empty("formula")),
    "improvements": lambda: study.improvements(empty("row"), 0.01),
    "ablation": lambda: study.ablation(empty("row difference")),
}


@pytest.mark.parametrize("case", NOTHING)
def test_a_figure_without_data_is_a_sentence_and_leaves_no_file(case, tmp_path, capsys):
    run = Run(DatasetParams(run="mine"), tmp_path)
    stale = run.path("figures/picture.png")
    stale.write_text("of an earlier execution")
    why = NOTHING[case]()
    assert run.figure(why, "picture", "caption") is None
    assert why.startswith("No ") and capsys.readouterr().out == why + "\n"
    assert not stale.exists() and not run.finish()["outputs"]


def test_figure_2_joins_every_skip_and_brings_the_embedding_to_every_residual_block():
    sizes = UNetSizes(32, (1, 2), 2, (1,), 24, 16)
    for x_0_condition in (False, True):
        net = PaperNet(PaperTensors(), sizes, x_0_condition)
        (axes,) = model.architecture(describe(net, 64), "title").axes
        words = [text.get_text() for text in axes.texts]
        blocks = sum(word.startswith("residual block") for word in words)
        assert blocks == sum(isinstance(part, ResBlock) for part in net.modules())
        arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
        into = [arrow for arrow in arrows if to_hex(arrow.get_edgecolor()) == model.EMBEDDING]
        told = 3 + x_0_condition + 2  # space group, energy, elements, x_0; time; their sum
        assert len(into) == blocks + told
        skips = [arrow for arrow in arrows if arrow.get_linestyle() == (0, (3, 2))]
        assert len(skips) == sum(isinstance(part, Stage) for part in net.unet.up)
        assert any("input: 64 rows × 3 channels" in word for word in words)
        assert any("structure x_0" in word for word in words) == x_0_condition
        plt.close(axes.figure)


def test_labels_of_the_hull_lie_on_no_other_and_on_no_point():
    formulas = ["Ta", "W", "B", "TaB", "TaB2", "W2B", "WB", "TaW", "TaW2", "TaW3", "TaW5", "TaWB2", "Ta3WB4", "Ta5W3B8"]
    hull = Hull(["B", "Ta", "W"], formulas, -np.linspace(0, 1, len(formulas)), formulas, "test")
    phases = hull.phases.assign(energy_above_hull=0.0)
    candidates = pd.DataFrame({"formula": ["TaW2B5"], "method": "ddim", "distance": 0.02, "says": "unresolved"})
    candidates["fractions"] = [hull.fractions("TaW2B5")]
    figure = inference.ternary_hull(hull.elements, phases, hull.tie_lines, candidates)
    figure.draw_without_rendering()
    labels = [text for text in figure.axes[0].texts if text.get_text()]
    assert {re.sub(r"[${}_]", "", text.get_text()) for text in labels} == set(formulas)
    boxes = [Text.get_window_extent(text) for text in labels]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    points = figure.axes[0].transData.transform(np.stack(phases.fractions) @ inference.CORNERS)
    assert not [box for box in boxes for point in points if box.contains(*point)]
    plt.close(figure)


def test_a_method_has_one_colour_whatever_it_is_called():
    names = {
        "diffusion": ["DDPM, paper", "DDIM, periodic", "ddim", "Diffusion, paper", "modification_paper_diffusion"],
        "flow from uniform noise": ["CFM U(0,1), transformer", "cfm uniform long", "cfm_uniform", "Flow-Matching"],
        "flow from normal noise": ["CFM N(0,1), paper", "cfm normal", "CFM N(0,1) given x_0, transformer", "cfm_noise"],
        "regression": ["Regression, periodic", "paper_regression", "published L1, target's cell", "minimum image"],
        "lookup": ["substitution, asked group", "learnt choice", "x_0 unchanged, target's cell"],
        "random": ["random, training cell", "random"],
    }
    colours = [{colour_of(name) for name in several} for several in names.values()]
    assert all(len(several) == 1 for several in colours) and len(set.union(*colours)) == len(names)


def test_every_verdict_of_table_3_has_its_colour():
    says = ["below the hull", "above the hull", "unresolved", "known as mp-1", "none asked for"]
    cells = pd.DataFrame({"formula": "TaW2B5", "experiment": [str(i) for i in range(5)], "says": says})
    cells = cells.assign(method="ddim", distance=0.01, distance_low=-0.04, distance_high=0.06, n=[3, 3, 3, 3, 0])
    (axes,) = inference.distances_from_hull(cells, cells[:1]).axes
    drawn = [line.get_color() for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert len(drawn) == len(set(drawn)) == 4
    assert axes.get_ylim()[0] > 4 > axes.get_ylim()[1], "the last row has a sentence alone"


def test_same_figure_gives_the_same_file():
    def drawn() -> bytes:
        figure, axes = subplots(width=3, height=2)
        axes.scatter([1, 2], [3, 4])
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
        return file.getvalue()

    assert drawn() == drawn()


def test_interactive_view_carries_every_atom_and_fetches_nothing(rock_salt):
    page = structures.interactive_view([rock_salt], ['<b>"salt" & pepper']).data
    scene = json.loads(re.search('scene="(.*?)"', page)[1].replace("&quot;", '"'))
    assert len(scene["atoms"]) == 27 and len(scene["edges"]) == 12 and len(scene["bonds"]) == 2 * 54
    assert "<b>" not in page and "&lt;b&gt;&quot;salt&quot; &amp; pepper" in page
    assert not re.search(r"https?://|src=|import\(", page)


def test_crystal_toolkit_stays_out_of_runs_that_are_not_live(rock_salt, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    view = structures.live_view([rock_salt], ["salt"])
    assert view.data == structures.interactive_view([rock_salt], ["salt"]).data
    assert "crystal_toolkit" not in sys.modules


def test_viewer_draws_and_turns_in_a_browser(rock_salt, browser, tmp_path):
    page = tmp_path / "view.html"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8>{structures.interactive_view([rock_salt], ['salt']).data}")
    picture = "document.querySelector('crystal-view canvas').toDataURL()"
    colours = """(() => {
        const canvas = document.querySelector("crystal-view canvas");
        const seen = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const pixels = [...Array(seen.length / 4).keys()].map(i => seen.slice(4 * i, 4 * i + 4));
        const count = test => pixels.filter(pixel => test(...pixel)).length;
        return [count((r, g, b, a) => a && b > g + 60 && r > g), count((r, g, b, a) => a && g > r + 60 && g > b + 60)];
    })()"""
    visit = browser.visit(page.as_uri(), questions={"before": picture, "colours": colours})
    assert not visit.errors
    assert visit.requests == [page.as_uri()]
    answers = visit.answers[1200]
    sodium, chlorine = answers["colours"]  # pixels: violet and green
    assert sodium > 1500 and chlorine > 400
    for kind, x in (("mousePressed", 60), ("mouseMoved", 120), ("mouseReleased", 120)):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=100, button="left", buttons=1, clickCount=1)
    assert browser.ask(picture) != answers["before"]
    browser.ask("document.querySelector('crystal-view').dispatchEvent(new Event('dblclick'))")
    assert browser.ask(picture) == answers["before"]


def test_losses_below_1_have_ticks_and_match_rates_one_scale():
    history = pd.DataFrame({"step": [50, 1000], "training": [3.0, 0.45], "validation": [2.0, 0.5]})
    (axes,) = model.loss_curves({"generation_paper_ddpm": history}).axes
    low, high = axes.get_ylim()
    assert (
        sum(low < tick < 1 for tick in axes.get_yticks()) >= 2
        and sum(1 < tick < high for tick in axes.get_yticks()) >= 2
    )
    rates = {f"match_{name}": [0.0, rate] for name, rate in (("default", 0.2), ("csp", 0.5), ("strict", 0.0))}
    panels = model.match_curves(pd.DataFrame({"model": "generation_paper_ddpm", "crystals": [1000, 2000]} | rates)).axes
    assert len({axes.get_ylim() for axes in panels}) == 1 and panels[0].get_ylim()[0] < 0, "a line of zeros is seen"
