"""Figure 2 and the loss curves."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lib.figures.style import BLUE, COLOURS, GREEN, GREY, INK, ORANGE, PURPLE, subplots


def loss_curves(histories: dict[str, pd.DataFrame], n_columns: int = 3) -> Figure:
    """Training and validation loss of each model; one panel a model."""
    n_rows = -(-len(histories) // n_columns)
    figure, axes = subplots(n_rows, n_columns, width=9, height=2.4 * n_rows, squeeze=False)
    for axis in axes.flat[len(histories) :]:
        axis.set_axis_off()
    for axis, (name, history) in zip(axes.flat, histories.items(), strict=False):
        _curve(axis, name, history)
    axes.flat[0].legend()
    return figure


def _curve(axis: Axes, name: str, history: pd.DataFrame) -> None:
    colour = next((COLOURS[network] for network in ("paper", "transformer") if network in name), COLOURS["periodic"])
    axis.plot(history["step"], history["training"], color=colour, marker=".", label="training")
    axis.plot(history["step"], history["validation"], color=colour, ls="--", marker=".", alpha=0.7, label="validation")
    axis.set(title=name.split("_", 1)[1].replace("_", " "), xlabel="step", ylabel="loss")
    axis.set_ylim(bottom=0)


def learning_curves(scores: pd.DataFrame) -> Figure:
    """Loss and match rate of :func:`lib.learning_curve.curve_scores` against crystals, with 95 % intervals."""
    figure, panels = subplots(1, 2, width=9, height=2.8)
    titles = {"loss": "validation loss", "default": "match rate (default)"}
    colours = {"weights": BLUE, "nothing": ORANGE}
    for axis, (column, title) in zip(panels, titles.items(), strict=True):
        for start, part in scores.groupby("start", sort=False):
            part = part.sort_values("crystals")
            bars = np.abs(part[[f"{column}_low", f"{column}_high"]].to_numpy().T - part[column].to_numpy())
            style = {"color": colours[start], "marker": "o", "capsize": 2, "label": f"from {start}"}
            axis.errorbar(part["crystals"], part[column], bars, **style)
        axis.set(xlabel="training crystals", ylabel=f"{title} (n = {scores['n'].iloc[0]})", xscale="log")
        axis.set_xticks(np.unique(scores["crystals"]), np.unique(scores["crystals"]))
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
    panels[0].legend()
    return figure


class LiveCurve:
    """A loss curve that grows in the notebook while a model trains; give it to the trainer as `on_validation`."""

    def __init__(self, name: str) -> None:
        self.name, self.handle = name, None

    def __call__(self, history: list[dict[str, float]]) -> None:
        from IPython.display import Image, display

        figure, axis = subplots(width=4.2, height=2.4)
        _curve(axis, self.name, pd.DataFrame(history))
        axis.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110)
        _close(figure)
        image = Image(buffer.getvalue(), alt=f"loss of {self.name}", width=420)
        if self.handle is None:
            self.handle = display(image, display_id=True)
        else:
            self.handle.update(image)


def _close(figure: Figure) -> None:
    import matplotlib.pyplot as plt

    plt.close(figure)


def architecture(parts: list[dict[str, object]], title: str) -> Figure:
    """Figure 2 drawn from :func:`lib.unet.describe`: the condition block on the left, the UNet on the right."""
    figure, (left, right) = subplots(1, 2, width=9, height=5.2, width_ratios=[1, 1.7])
    figure.suptitle(title)
    for axis in (left, right):
        axis.set_axis_off()
    _conditions(left, [p for p in parts if p["group"] in ("atoms", "condition")])
    _unet(right, parts)
    return figure


def _box(axis: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    style = "round,pad=0.02,rounding_size=0.08"
    axis.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, style, fc=colour, ec=INK, lw=0.6))
    axis.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if colour != "white" else INK)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], **options) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, lw=0.8, color=INK, **options))


def _conditions(axis: Axes, parts: list[dict[str, object]]) -> None:
    axis.set(title="(a) condition block", xlim=(-1.5, 1.9), ylim=(-len(parts) - 0.7, 0.7))
    joined = [i for i, part in enumerate(parts) if part["group"] == "condition"]
    middle = -(joined[0] + joined[-1]) / 2
    for i, part in enumerate(parts):
        text = f"{part['name']}\n{part['channels']} features · {part['parameters']:,} parameters"
        if part["group"] == "atoms":
            _box(axis, 0, -i, 2.6, 0.6, text, ORANGE)
            axis.text(1.4, -i, "each row", va="center", fontsize=7)
        else:
            _box(axis, 0, -i, 2.6, 0.6, text, PURPLE)
            _arrow(axis, (1.32, -i), (1.65, middle))
    axis.text(1.75, middle, "embedding", rotation=270, ha="center", va="center", fontsize=8)


def _unet(axis: Axes, parts: list[dict[str, object]]) -> None:
    down, up = ([p for p in parts if p["group"] == group] for group in ("down", "up"))
    blocks_down, blocks_up = _levels(down), _levels(up)
    depth = len(blocks_down)
    axis.set(title="(b) UNet", xlim=(-2.6, 2.6), ylim=(-depth - 1.5, 1.4))
    for level, block in enumerate(blocks_down):
        _box(axis, -1.3 + 0.25 * level, -level, 1.9, 0.7, _level_text(block), BLUE)
        if level:
            _arrow(axis, (-1.45 + 0.25 * level, -level + 0.66), (-1.35 + 0.25 * level, -level + 0.35))
    for i, block in enumerate(blocks_up):
        level = depth - 1 - i
        _box(axis, 1.3 - 0.25 * level, -level, 1.9, 0.7, _level_text(block), GREEN)
        left, right = -0.3 + 0.25 * level, 0.3 - 0.25 * level
        if right > left:
            _arrow(axis, (left, -level), (right, -level), linestyle="--")
        if level:
            _arrow(axis, (1.35 - 0.25 * level, -level + 0.35), (1.45 - 0.25 * level, -level + 0.66))
    middle = [p for p in parts if p["group"] == "middle"]
    _box(axis, 0, -depth - 0.6, 2.2, 0.7, "middle: " + _level_text(middle), GREY)
    _arrow(axis, (-1.2 + 0.25 * depth, -depth + 0.65), (-0.4, -depth - 0.25))
    _arrow(axis, (0.4, -depth - 0.25), (1.2 - 0.25 * depth, -depth + 0.65))
    heads = [p for p in parts if p["group"] == "head"]
    text = "\n".join(f"{h['name']}: {h['channels']} outputs" for h in heads)
    _box(axis, 1.3, 1.0, 1.9, 0.5, text, ORANGE)
    _arrow(axis, (1.3, 0.35), (1.3, 0.72))


def _levels(parts: list[dict[str, object]]) -> list[list[dict[str, object]]]:
    levels: list[list[dict[str, object]]] = [[]]
    for part in parts:
        if part["name"] == "stage":
            levels[-1].append(part)
        else:
            levels.append([])
    return levels


def _level_text(blocks: list[dict[str, object]]) -> str:
    plural = "s" if len(blocks) > 1 else ""
    attends = ", attention" if any(b["attends"] for b in blocks) else ""
    parameters = sum(b["parameters"] for b in blocks)
    first = f"{blocks[-1]['rows']} rows x {blocks[-1]['channels']} channels"
    return f"{first}\n{len(blocks)} residual block{plural}{attends}\n{parameters:,} parameters"
