"""Charts as PNGs with a transparent background, for light and dark pages."""

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

# By stream. Each has a contrast of 3 or more against white, and, as a dark page brightens it,
# against black.
COLOURS = {
    "image": "#3b82c4",
    "text": "#d9730d",
    "pair_image": "#14938b",
    "pair_text": "#c2416b",
}
_MARKERS = {"image": "o", "text": "s", "pair_image": "D", "pair_text": "^"}
_HATCHES = {"image": None, "text": "//", "pair_image": "..", "pair_text": "xx"}
_LINES = {"image": "-", "text": "-.", "pair_image": "--", "pair_text": (0, (3, 1, 1, 1, 1, 1))}
_INK = "#6b6b6b"
# Brightened it is viridis.
_DARK = ListedColormap(np.array(matplotlib.colormaps["viridis"].colors) / 1.6)
_STYLE = {"size": (4.2, 2.6), "font": 9, "dpi": 160}


def shares(shares_of: Mapping[str, np.ndarray]) -> bytes:
    """Draws each expert's share of each stream's tokens, in percent.

    Args:
      shares_of: dict of <float>[E] by stream, each sums to 1.

    Returns:
      bytes of a PNG, like all functions of this module.
    """
    figure, axes = _axes("expert", "share of the tokens, %")
    width = 0.8 / len(shares_of)
    for number, (name, values) in enumerate(shares_of.items()):
        places = [expert + (number + 0.5) * width - 0.4 for expert in range(len(values))]
        axes.bar(
            places, 100 * values, width, label=name, color=COLOURS[name], hatch=_HATCHES[name],
            edgecolor="#00000060", linewidth=0.3,
        )  # fmt: skip
    count = len(next(iter(shares_of.values())))
    axes.set_xticks(range(0, count, math.ceil(count / 16)))
    return _png(figure, axes)


def by_layer(
    values_of: Mapping[str, Sequence[float | None]],
    label: str,
    *,
    blocks: Sequence[str],
    limits_of: Mapping[str, Sequence[float | None]] | None = None,
) -> bytes:
    """Draws a number of each block and stream, with a dashed line for a stream's limits.

    Args:
      values_of: dict of lists by stream, None if the block does not route it.
      label: label of the y axis.
      blocks: names of the blocks.
      limits_of: as `values_of`, or None.
    """
    figure, axes = _axes("block", label)
    places = range(len(blocks))
    for name, values in values_of.items():
        look = {"color": COLOURS[name], "marker": _MARKERS[name]}
        axes.plot(places, _with_gaps(values), label=name, **look)
        if limits_of:
            limits = _with_gaps(limits_of[name])
            axes.plot(places, limits, "--_", color=COLOURS[name], markersize=14)
    axes.set_xticks(places, [name.removeprefix("block_") for name in blocks])
    axes.margins(x=0.15)
    return _png(figure, axes)


def over_steps(
    lines_of: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    label: str,
    *,
    limits_of: Mapping[str, float | None] | None = None,
) -> bytes:
    """Draws a number of several layers over the steps of a run, one line per layer.

    Args:
      lines_of: dict by stream of lists of (steps, values).
      label: label of the y axis.
      limits_of: dict by stream of a number for a dashed line, or None.
    """
    figure, axes = _axes("step", label)
    for name, lines in lines_of.items():
        look = {"color": COLOURS[name], "linestyle": _LINES[name]}
        for number, (steps, values) in enumerate(lines):
            axes.plot(steps, values, label=None if number else name, linewidth=1.2, **look)
        if limits_of and limits_of[name] is not None:
            axes.axhline(limits_of[name], linestyle=":", color=COLOURS[name])
    return _png(figure, axes)


def places(values: np.ndarray) -> bytes:
    """Draws a number of each position in an image, in percent.

    Args:
      values: <float>[rows, columns], in 0..1.
    """
    figure, axes = _axes("column", "row")
    shown = axes.imshow(100 * values, cmap=_DARK, vmin=0)
    for axis, count in zip((axes.yaxis, axes.xaxis), values.shape):
        axis.set_ticks(range(0, count, math.ceil(count / 8)))
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown)
    bar.ax.tick_params(colors=_INK, labelsize=_STYLE["font"])
    bar.set_label("%", color=_INK)
    bar.outline.set_visible(False)
    return _png(figure, None)


def _axes(x_label, y_label):
    figure = Figure(figsize=_STYLE["size"], dpi=_STYLE["dpi"], layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=_INK, fontsize=_STYLE["font"])
    axes.set_ylabel(y_label, color=_INK, fontsize=_STYLE["font"])
    axes.tick_params(colors=_INK, labelsize=_STYLE["font"])
    axes.spines[:].set_color(_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.patch.set_alpha(0)
    return figure, axes


def _png(figure, axes):
    if axes is not None:
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False,
            labelcolor=_INK, fontsize=_STYLE["font"],
        )  # fmt: skip
    file = io.BytesIO()
    figure.savefig(file, format="png", transparent=True)
    return file.getvalue()


def _with_gaps(values):
    return [math.nan if value is None else value for value in values]
