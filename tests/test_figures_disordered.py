"""Figures of notebooks 30 to 33 draw what they are given, and say so where there is nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lib.core.run import drawn_numbers
from lib.dismai.alloy import PAIR_NAMES
from lib.figures import disordered

NONE = pd.DataFrame(columns=["entrant", "value", "low", "high"])


def test_scores_stand_beside_floor_and_published_numbers():
    table = pd.DataFrame(
        {
            "entrant": ["a", "shuffled"],
            "metric": "d_cluster",
            "value": [0.1, 0.4],
            "low": [0.08, 0.3],
            "high": [0.12, 0.5],
            "floor": 0.05,
        }
    )
    published = pd.DataFrame({"entrant": ["CDVAE"], "value": [0.06], "low": [0.05], "high": [0.07]})
    figure = disordered.scores(table, "d_cluster", published, ["shuffled"])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "shuffled", "CDVAE, published"]
    means = [numbers[1] for numbers in drawn_numbers(figure)]
    assert {0.1, 0.4, 0.05, 0.06} <= set(means)
    failed = table.assign(value=[np.nan, 0.4])
    (axes,) = disordered.scores(failed, "d_cluster", NONE, ["shuffled"]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["shuffled", "a"]
    assert [text.get_text() for text in axes.texts] == ["every structure failed"]
    assert "nothing was measured" in disordered.scores(table.assign(value=np.nan), "d_cluster", NONE, [])


def test_ranks_order_and_distributions_are_drawn():
    ranks = pd.DataFrame({"alloy": [1, 2], "silicon": [2, 1], "interface": [1, 2]}, index=["a", "b"])
    lines = disordered.spider(ranks).axes[0].lines
    assert lines[0].get_ydata().tolist() == [2, 1, 2, 2], "the best is furthest out"
    assert "no entrant" in disordered.spider(ranks.iloc[:0])
    alpha = np.random.default_rng(0).normal(size=(30, 7, 6))
    figure = disordered.short_range_order({"300 K": alpha, "1500 K": alpha + 1}, PAIR_NAMES)
    assert [axes.get_title() for axes in figure.axes] == ["shell 1", "shell 2"]
    assert figure.axes[0].lines[1].get_ydata() == pytest.approx(alpha[:, 0].mean(0))
    (axes,) = disordered.chain_energies({"300 K": [np.full(100, -0.09)]}, 10).axes
    assert (axes.lines[0].get_ydata() == -90).all() and axes.lines[0].get_xdata()[-1] == 1000
    assert len(disordered.distributions({"x": np.ones(4)}, (0, 2), "x", "y").axes[0].lines) == 1
    assert "no such data set" in disordered.distributions({}, (0, 1), "x", "y")
