"""Figure 2 and the loss curves."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import EngFormatter, LogLocator

from lib.figures.matching import TITLES
from lib.figures.style import BLUE, INK, ORANGE, Drawing, colour_of, legend, subplots

ROWS, DOWN, UP, CONDITION = "#fbe8c3", "#d6e7f5", "#d3eee4", "#f3dfec"  # fills of Figure 2, light enough for dark text
EMBEDDING = "#8e3f75"
SLOT = 0.62  # inches between the blocks of Figure 2
NAMES = {  # of modules, where another says more
    "stage": "residual block",
    "downsample": "rows halved, convolution",
    "element": "element, learnt",
    "feature": "element, properties",
    "place": "place in the order",
    "n sites": "number of atoms",
    "initial": "structure x_0",
    "conv head": "output",
    "coords head": "coordinates",
    "lattice head": "lattice",
}


def loss_curves(histories: dict[str, pd.DataFrame]) -> Drawing:
    """Training and validation loss of each model, task_network_method -> step, training, validation: a panel a network,
    whose losses compare, and a colour a method."""
    panels: dict[str, dict[str, pd.DataFrame]] = {}
    for name, history in histories.items():
        _, network, method = name.split("_", 2)
        if len(history) > 1:  # else its weights were trained before
            panels.setdefault(network, {})[method.replace("_", " ")] = history
    if not panels:
        return "No loss curves: no model was trained in this run, which took finished weights."
    figure, axes = subplots(1, len(panels), width=9 if len(panels) > 1 else 5.4, height=3.6, squeeze=False)
    for axis, (network, models) in zip(axes[0], panels.items(), strict=True):
        for method, history in models.items():
            _curve(axis, method, history)
        axis.set_title(network)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    return figure


def _curve(axis: Axes, name: str, history: pd.DataFrame) -> None:
    style = {"color": colour_of(name), "lw": 2.4 if "long" in name else 1.4}
    axis.plot(history["step"], history["training"], label=name, **style)
    axis.plot(history["step"], history["validation"], ls=(0, (3, 1.5)), marker=".", ms=5, **style)
    axis.set(xlabel="step", ylabel="loss (dashed: validation)", xscale="log", yscale="log")
    for side, subs in ((axis.xaxis, (1, 2, 5)), (axis.yaxis, (1, 1.5, 2, 3, 5, 7))):
        side.set_major_locator(LogLocator(subs=subs))
        side.set_major_formatter("{x:g}")
    axis.minorticks_off()


def match_curves(curves: pd.DataFrame) -> Drawing:
    """Match rates on validation crystals (:func:`lib.studies.model_plan.curves`) against the crystals seen in training:
    a panel a tolerance, a line a model.
    """
    rates = {name: f"match_{name}" for name in TITLES if f"match_{name}" in curves}
    if not rates:
        return "No match rates during training: 'validate_matches' is 0 and no model here was validated by matching."
    figure, panels = subplots(1, len(rates), width=9, height=3.4, squeeze=False, sharey=True)
    for axis, (name, column) in zip(panels[0], rates.items(), strict=True):
        for model, part in curves.dropna(subset=[column]).groupby("model", sort=False):
            label = model.split("_", 1)[1].replace("_", " ")
            axis.plot(part["crystals"], part[column], marker=".", ms=5, color=colour_of(label), label=label)
        axis.set(title=TITLES[name], xlabel="crystals seen")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0][0].set(
        ylabel="match rate, validation", ylim=(-0.01, max(0.1, 1.05 * curves[list(rates.values())].max(axis=None)))
    )
    legend(figure, panels[0][0])
    return figure


def learning_curves(scores: pd.DataFrame) -> Figure:
    """Loss and match rate of :func:`lib.studies.learning_curve.curve_scores` against crystals, with 95 % intervals."""
    figure, panels = subplots(1, 2, width=9, height=2.8)
    titles = {"loss": "validation loss", "default": "match rate (default)"}
    colours = {"weights": BLUE, "nothing": ORANGE}
    for axis, (column, title) in zip(panels, titles.items(), strict=True):
        for start, part in scores.groupby("start", sort=False):
            part = part.sort_values("crystals")
            bars = np.abs(part[[f"{column}_low", f"{column}_high"]].to_numpy().T - part[column].to_numpy())
            style = {"color": colours[start], "marker": "o", "ms": 5, "capsize": 2, "label": f"from {start}"}
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
        axis.set_title(self.name.replace("_", " "))
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110)
        plt.close(figure)
        image = Image(buffer.getvalue(), alt=f"loss of {self.name}", width=420)
        if self.handle is None:
            self.handle = display(image, display_id=True)
        else:
            self.handle.update(image)


def architecture(parts: list[dict[str, object]], title: str) -> Figure:
    """Figure 2 drawn from :func:`lib.models.unet.describe`: on the left what becomes the embedding, on the right the
    UNet.

    Blocks that a dashed line joins stand at one height: each block on the way up reads, beside what comes from below,
    what the block on its left returned. The embedding enters every residual block.
    """
    groups = ("atoms", "condition", "input", "down", "middle", "up", "head")
    of = {group: [part for part in parts if part["group"] == group] for group in groups}
    left, right = of["input"] + of["down"], [p for p in of["up"] if p["name"] == "stage"][::-1]
    slot = SLOT if len(left) <= 12 else SLOT / 2
    height = max(slot * (len(left) + 2) + 0.9, 0.55 * (len(of["atoms"] + of["condition"]) + 1) + 0.5)
    figure, axis = subplots(width=9, height=height + 0.3)
    axis.set(xlim=(0, 9), ylim=(0, height + 0.15), title=title)
    axis.set_axis_off()
    for x, name in ((0.03, "(a) what the network is told"), (3.75, "(b) UNet")):
        axis.text(x, height + 0.02, name, fontsize=8.5, fontweight="bold")
    bottom = height - slot * (len(left) + 1) - 0.55  # of the middle blocks
    source = _conditions(axis, of["atoms"], of["condition"], height, (bottom + height) / 2)

    # the embedding's way to both sides, up to the last part that reads it
    embedded_to = height - (0.3 if any(head["name"] == "lattice head" for head in of["head"]) else 0.55 + slot)
    for x in (3.5, 8.85):
        axis.plot([x, x], [bottom - 0.45, embedded_to if x > 8 else source[1]], color=EMBEDDING, lw=1.6)
    axis.plot([source[0], 3.5], [source[1]] * 2, color=EMBEDDING, lw=1.6)
    axis.plot([3.5, 3.5], [source[1], height - slot - 0.55], color=EMBEDDING, lw=1.6)
    axis.plot([3.5, 8.85], [bottom - 0.45] * 2, color=EMBEDDING, lw=1.6)
    axis.text(6.2, bottom - 0.4, "embedding, into every residual block", color=EMBEDDING, fontsize=7.5, ha="center")

    state = f"input: {left[0]['rows']} rows × {left[0]['inputs']} channels"
    _box(axis, 4.7, height - 0.3, 1.9, state, ROWS)
    _arrow(axis, (4.7, height - 0.3 - 0.19), (4.7, height - 0.55 - slot + 0.36 * slot))
    rows = [height - 0.55 - slot * (k + 1) for k in range(len(left))]
    for k, (y, down, up) in enumerate(zip(rows, left, right, strict=True)):
        _block(axis, 4.7, y, down, DOWN, 3.5, slot)
        _block(axis, 7.65, y, up, UP, 8.85, slot)
        _arrow(axis, (5.65, y), (6.7, y), ls=(0, (3, 2)), color="#555555")
        end = rows[k + 1] if k + 1 < len(rows) else bottom
        _arrow(axis, (4.7, y - 0.36 * slot), (4.7, end + 0.36 * slot))
        _arrow(axis, (7.65, end + 0.36 * slot), (7.65, y - 0.36 * slot))
        if k + 1 < len(rows) and right[k + 1]["rows"] < up["rows"]:
            axis.text(7.75, (y + end) / 2, "rows doubled", va="center", fontsize=6.5)
    for x, way, part in ((4.7, 3.5, of["middle"][0]), (7.65, 8.85, of["middle"][1])):
        _block(axis, x, bottom, part, "#e6e6e6", way, slot)
    _arrow(axis, (5.65, bottom), (6.7, bottom))
    axis.text(6.17, rows[0] + 0.05, "skip", ha="center", fontsize=7)
    for k, head in enumerate(of["head"]):
        x = 7.65 + 0.97 * (k - (len(of["head"]) - 1) / 2)
        text = f"{NAMES[head['name']]}\n{head['channels']} channels"
        _box(axis, x, height - 0.3, 1.9 if len(of["head"]) == 1 else 0.92, text, ROWS)
        _arrow(axis, (x, rows[0] + 0.36 * slot), (x, height - 0.3 - 0.19))
        if head["name"] == "lattice head":  # reads the embedding, too
            _arrow(axis, (8.85, height - 0.3), (x + 0.46, height - 0.3), color=EMBEDDING)
    return figure


def _box(axis: Axes, x: float, y: float, width: float, text: str, colour: str, slot: float = SLOT) -> None:
    tall, style = min(0.72 * slot, 0.42), "round,pad=0,rounding_size=0.06"
    corner = (x - width / 2, y - tall / 2)
    axis.add_patch(FancyBboxPatch(corner, width, tall, boxstyle=style, fc=colour, ec=INK, lw=0.7, zorder=3))
    line = {"s": text, "fontsize": 7} if slot == SLOT else {"s": text.replace("\n", ", "), "fontsize": 5.5}
    axis.text(x, y, ha="center", va="center", zorder=4, **line)


def _block(axis: Axes, x: float, y: float, part: dict[str, object], colour: str, way: float, slot: float) -> None:
    """A part of the UNet and, where it is a residual block, the embedding's arrow into it."""
    name = NAMES.get(part["name"], part["name"]) + ", attention" * part["attends"]
    shape = f"{part['rows']} rows × {part['channels']}" + " channels" * (slot == SLOT)
    _box(axis, x, y, 1.9, f"{name}\n{shape}", colour, slot)
    if part["name"] == "stage":
        _arrow(axis, (way, y), (x + (0.95 if way > x else -0.95), y), color=EMBEDDING)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK, **options) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 8, "lw": 1.0, "shrinkA": 0, "shrinkB": 0, "zorder": 2}
    axis.add_patch(FancyArrowPatch(start, end, color=color, **style, **options))


def _conditions(axis: Axes, atoms: list, conditions: list, height: float, middle: float) -> tuple[float, float]:
    """What each row carries and what becomes the embedding; returns where the embedding leaves."""
    joined = next((p for p in conditions if p["name"] == "condition"), None)
    boxes = atoms + [p for p in conditions if p is not joined]
    if joined:  # the energy enters as a number
        boxes.insert(1, {"name": "energy", "group": "condition", "channels": 1, "parameters": 0})
    apart = min(0.75, (height - 0.7) / (len(boxes) - 1))
    places = (height - 0.3 if atoms else middle + apart * (len(boxes) - 1) / 2) - apart * np.arange(len(boxes))
    node = (3.15, middle)
    axis.add_patch(Circle(node, 0.11, fc=CONDITION, ec=EMBEDDING, lw=1.2, zorder=4))
    axis.text(*node, "+", ha="center", va="center", fontsize=9, zorder=5)
    for part, y in zip(boxes, places, strict=True):
        size = f"{part['channels']} features · {part['parameters']:,} parameters" if part["parameters"] else "eV/atom"
        name = NAMES.get(part["name"], part["name"])
        _box(axis, 0.95, y, 1.85, f"{name}\n{size}", ROWS if part["group"] == "atoms" else CONDITION)
        if part["group"] == "atoms":
            _arrow(axis, (1.88, y), (3.75, height - 0.3))
        elif joined and part["name"] != "time":
            _arrow(axis, (1.88, y), (2.1, middle), color=EMBEDDING)
        else:
            _arrow(axis, (1.88, y), (node[0] - 0.09, middle + 0.06 * np.sign(y - middle)), color=EMBEDDING)
    if joined:
        _box(axis, 2.5, middle, 0.78, f"joined, linear\n{joined['channels']} features", CONDITION)
        _arrow(axis, (2.89, middle), (node[0] - 0.11, middle), color=EMBEDDING)
    return node[0] + 0.11, middle
