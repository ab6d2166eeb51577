"""All experts of a layer at a glance: shares, image patches, word pieces."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from limoe_tf.analyze import charts, patches
from limoe_tf.analyze.findings import Findings
from limoe_tf.analyze.pictures import Picture

MAX_EXPERTS = 16
_PATCHES, _WORDS = 10, 12
_LARGE_SHARE = 0.5
_INK, _SOFT = "#1b1d20", "#5a6169"
_INCHES = {"width": 9.6, "row": 0.72, "label": 1.75, "patches": 4.6, "gap": 0.12}


def overview(layer: str, findings: Findings, names: Sequence[str]) -> Picture:
    """Returns the Picture of a layer's experts, a row for each.

    Args:
      layer: its name.
      findings: `findings.Findings` of it. Of more than `MAX_EXPERTS` experts those with the largest
        shares are shown.
      names: list of the labels of the text tokens.
    """
    experts = _largest(findings)
    figure = Figure(figsize=(_INCHES["width"], _INCHES["row"] * len(experts)), dpi=100)
    for row, expert in enumerate(experts):
        _draw_row(figure, 1 - (row + 1) / len(experts), 1 / len(experts), expert, findings, names)
    file = io.BytesIO()
    figure.savefig(file, format="png", pil_kwargs={"optimize": True})
    count = len(findings.experts)
    which = "" if len(experts) == count else f"; of {count} those with the largest shares"
    return Picture(
        f"{layer.replace('/', '_')}_overview",
        file.getvalue(),
        f"The experts of {layer}{which}: each one's share of the tokens, the patches with its "
        "highest gates, with their surroundings in paler colours, and its typical word pieces.",
        " ".join(_said(expert, findings, names) for expert in experts),
    )


def _largest(findings):
    shares = sum(tally.shares() for tally in findings.tallies.values())
    return sorted(np.argsort(-shares, kind="stable")[:MAX_EXPERTS].tolist())


def _draw_row(figure, bottom, height, expert, findings, names):
    middle, width = bottom + height / 2, _INCHES["width"]
    left = _INCHES["label"] / width
    look = {"va": "center", "fontsize": 8.5, "linespacing": 1.35}
    head = f"expert {expert}: {findings.experts[expert]}"
    figure.text(0.01, middle + 0.27 * height, head, color=_INK, weight="bold", **look)
    for line, (name, share) in enumerate(_shares(expert, findings).items()):
        place = middle - (0.02 + 0.27 * line) * height
        figure.text(
            0.01, place, f"{share:.0%} of {name} tokens", color=charts.COLOURS[name], **look
        )
    pictures = [] if findings.patches is None else findings.patches.of(expert)[:_PATCHES]
    if pictures:
        strip = patches.grid(pictures, columns=_PATCHES)
        axes = figure.add_axes((left, bottom, _INCHES["patches"] / width, height))
        axes.imshow(strip, interpolation="nearest")
        axes.set_axis_off()
    words = ", ".join(words_of(expert, findings, names))
    place = left + (_INCHES["patches"] + _INCHES["gap"]) / width
    figure.text(place, middle, _folded(words), color=_SOFT, **look)


def _shares(expert, findings):
    return {name: tally.shares()[expert] for name, tally in findings.tallies.items()}


def words_of(expert: int, findings: Findings, names: Sequence[str]) -> list[str]:
    """Returns the labels of an expert's typical word pieces, the most typical first.

    An expert takes half of their tokens or more, or at least twice an even share of 1 / E.

    Args:
      expert: its number.
      findings: `findings.Findings`.
      names: list of the labels of the text tokens.
    """
    tally = findings.of_modality("text")
    if tally is None:
        return []
    enough = min(_LARGE_SHARE, 2 / tally.num_experts)
    typical = tally.typical(expert, tally.num_kinds)
    return [names[kind] for kind, _, share in typical if share >= enough][:_WORDS]


def _folded(text, width=38):
    """Returns words and commas as lines of about `width` letters, three at most."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:3]).rstrip(",")


def _said(expert, findings, names):
    shares = " and ".join(
        f"{share:.0%} of the {name} tokens" for name, share in _shares(expert, findings).items()
    )
    words = ", ".join(words_of(expert, findings, names))
    typical = f", such as {words}" if words else ""
    return f"Expert {expert}, {findings.experts[expert]}: {shares}{typical}."
