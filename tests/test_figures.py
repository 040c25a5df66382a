"""Pictures of structures against geometry worked out by hand, and the viewer in a real browser."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from lib.figures import inference, structures
from lib.figures.style import subplots


@pytest.fixture
def rock_salt() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


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
        view = structures.Scene(np.array([[0, 0, 2.0], [0, 0, -2]]), np.array([front, behind]), edges)
        image, (left, right, bottom, top) = structures._render(view)
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


def test_gallery_draws_each_structure_with_title_and_elements(rock_salt, triclinic):
    figure = structures.gallery([rock_salt, triclinic, rock_salt], ["one", "two", "three"], columns=2)
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == ["one", "two", "three"]
    assert [t.get_text() for t in drawn[1].get_legend().get_texts()] == ["Ti", "Fe"]
    plt.close(figure)


def test_gallery_of_nothing_is_an_empty_figure():
    figure = structures.gallery([], [])
    assert not any(axes.images for axes in figure.axes)
    plt.close(figure)


def test_every_verdict_of_table_3_has_its_colour():
    says = ["below the hull", "above the hull", "unresolved", "known as mp-1", "none asked for"]
    cells = pd.DataFrame({"formula": "TaW2B5", "experiment": [str(i) for i in range(5)], "says": says})
    cells = cells.assign(method="ddim", distance=0.01, resolution=0.05, n=[3, 3, 3, 3, 0])
    (axes,) = inference.distances_from_hull(cells, cells[:1]).axes
    drawn = [container.lines[0].get_color() for container in axes.containers]
    assert len(drawn) == len(set(drawn)) == 4
    assert axes.get_ylim()[0] < -4 < axes.get_ylim()[1], "the last row has a sentence alone"


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
    assert len(scene["atoms"]) == 27 and len(scene["edges"]) == 12
    assert "<b>" not in page and "&lt;b&gt;&quot;salt&quot; &amp; pepper" in page
    assert not re.search(r"https?://|src=|import\(", page)


def test_crystal_toolkit_stays_out_of_runs_that_are_not_live():
    code = (
        "import sys; from pymatgen.core import Structure, Lattice; from lib.figures.structures import live_view;"
        "view = live_view(Structure(Lattice.cubic(3), ['W'], [[0, 0, 0]]));"
        "print(type(view).__name__, 'crystal_toolkit' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": "."})
    assert done.stdout.split() == ["HTML", "False"], done.stderr


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
