"""The pictures of a report: each with a caption and a text alternative with its numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from limoe_tf.analyze import charts, patches
from limoe_tf.analyze.findings import Findings
from limoe_tf.analyze.routes import entry_of

_GRID_COLUMNS = 6
# The number of patches of each expert is reduced until all pictures fit into this size.
_MAX_BYTES = 2_800_000
_COUNTS = (24, 18, 12, 6, 3, 1)


class Picture(NamedTuple):
    """One picture.

    Attributes:
      name: name of its file, without the extension.
      data: bytes of a PNG or JPEG.
      caption: shown below the picture.
      alternative: text alternative, for screen readers.
    """

    name: str
    data: bytes
    caption: str
    alternative: str


def of_layers(found: Mapping[str, Findings]) -> list[Picture]:
    """Returns the pictures that compare blocks: entropies, ranks and dropped shares.

    Args:
      found: dict of `findings.Findings` by layer. A block routes a stream in one of its layers.
    """
    blocks = list(dict.fromkeys(layer.partition("/")[0] for layer in found))
    rank = _by_block(found, blocks, lambda one, name: one.tallies[name].mean_rank)
    drop = _by_block(found, blocks, lambda one, name: 100 * one.tallies[name].dropped_share())
    entropy = _by_block(found, blocks, lambda one, name: one.tallies[name].entropy)
    limit = _by_block(found, blocks, lambda one, name: one.thresholds.get(name))
    limits = _listed(limit, blocks)
    dashed = " Dashed: the threshold log(min_experts), below which the auxiliary loss increases it."
    return [
        Picture(
            "entropies",
            charts.by_layer(entropy, "entropy, nats", blocks=blocks, limits_of=limit),
            f"Entropy of each modality's mean gate probabilities.{dashed if limits else ''}",
            _listed(entropy, blocks) + (f" Thresholds: {limits}" if limits else ""),
        ),
        Picture(
            "ranks",
            charts.by_layer(rank, "mean rank, 0 is first", blocks=blocks),
            "Mean rank of a modality's tokens in priority order: 0 is first, 1 is last. The last "
            "tokens are dropped when an expert is full.",
            _listed(rank, blocks),
        ),
        Picture(
            "dropped",
            charts.by_layer(drop, "dropped, %", blocks=blocks),
            "Share of the choices that were dropped because the expert was full, at the training "
            "capacity.",
            _listed(drop, blocks, "%"),
        ),
    ]


def over_steps(
    records: Sequence[Mapping[str, Any]], found: Mapping[str, Findings]
) -> list[Picture]:
    """Returns the pictures of a run's logs: success rates, and entropies, over its steps.

    Args:
      records: the lines of `metrics.jsonl`, as dicts.
      found: dict of `findings.Findings` by layer.
    """
    firsts = {}
    for one in reversed(found.values()):
        firsts.update(one.thresholds)
    limits = {name: firsts.get(name) for name in _streams(found)} if firsts else None
    kinds = [
        ("success_rate", "kept, share", "Share of the choices that were not dropped", None),
        ("marginal_entropy", "entropy, nats", "Entropy of the mean gate probabilities", limits),
    ]
    pictures = []
    for kind, label, caption, limits in kinds:
        lines = _lines(records, kind, found)
        if any(lines.values()):
            pictures.append(
                Picture(
                    f"{kind}_over_steps",
                    charts.over_steps(lines, label, limits_of=limits),
                    f"{caption}, in each block during training"
                    + (". Dotted: the thresholds." if limits else "."),
                    _ends(lines),
                )
            )
    return pictures


def of_layer(name: str, findings: Findings) -> list[Picture]:
    """Returns the pictures of one layer: its experts' shares, and the dropped share by position."""
    shares = {modality: tally.shares() for modality, tally in findings.tallies.items()}
    numbers = "; ".join(f"{m}: {_numbers(100 * values)}" for m, values in shares.items())
    stem = name.replace("/", "_")
    pictures = [
        Picture(
            f"{stem}_shares",
            charts.shares(shares),
            f"Where the tokens of {name} go: each expert's share of the "
            f"{' and of the '.join(shares)} tokens, before any is dropped.",
            f"Percent, from expert 0 on: {numbers}.",
        )
    ]
    image = findings.of_modality("image")
    if image is not None and image.dropped.any():
        share = image.dropped.sum(axis=0) / np.maximum(image.chosen.sum(axis=0), 1)
        side = math.isqrt(len(share))
        share = share[: side**2].reshape([side, side])  # The class token has no place.
        rows = "; ".join(_numbers(100 * row) for row in share)
        pictures.append(
            Picture(
                f"{stem}_dropped_places",
                charts.places(share),
                f"Share of the patches of {name} that are dropped, by position in the image.",
                f"Percent, row by row from the top: {rows}.",
            )
        )
    return pictures


def of_experts(found: Mapping[str, Findings]) -> dict[str, list[Picture | None]]:
    """Returns dict by layer of a Picture, or None, for each expert: its top patches."""
    pictures = {}
    for count in _COUNTS:
        pictures = {
            layer: [_patches(layer, number, one.patches, count) for number in _experts(one)]
            for layer, one in found.items()
        }
        sizes = [len(one.data) for of_layer in pictures.values() for one in of_layer if one]
        if sum(sizes) <= _MAX_BYTES:
            break
    return pictures


def as_png(picture: Picture) -> bytes:
    """Returns the bytes of a Picture as PNG."""
    if picture.data.startswith(b"\x89PNG"):
        return picture.data
    return patches.png(tf.io.decode_jpeg(picture.data))


def _experts(findings):
    return range(len(findings.experts))


def _patches(layer, expert, top, count):
    pictures = [] if top is None else top.of(expert)[:count]
    if not pictures:
        return None
    return Picture(
        f"{layer.replace('/', '_')}_expert_{expert:02d}",
        patches.jpeg(patches.grid(pictures, columns=_GRID_COLUMNS)),
        f"The patches with the highest gate probabilities of expert {expert} of {layer}, at most "
        "one per image, with their surroundings in paler colours.",
        f"{len(pictures)} image patches, the highest gate probability at the top left.",
    )


def _streams(found):
    return [name for name in charts.COLOURS if any(name in one.tallies for one in found.values())]


def _by_block(found, blocks, number):
    values = {name: dict.fromkeys(blocks) for name in _streams(found)}
    for layer, one in found.items():
        for name in one.tallies:
            values[name][layer.partition("/")[0]] = number(one, name)
    return {name: list(of_block.values()) for name, of_block in values.items()}


def _lines(records, kind, found):
    logged = {name for one in records for name, value in one.items() if value is not None}
    lines = {name: [] for name in _streams(found)}
    for layer in found:
        for name, of_stream in lines.items():
            if key := entry_of(layer, kind, name, logged):
                known = [(one["step"], one[key]) for one in records if one.get(key) is not None]
                of_stream.append(tuple(zip(*known)))
    return lines


def _ends(lines):
    parts = [
        f"{name}: from {_numbers(np.array([values[0] for _, values in of_modality]), 2)} "
        f"to {_numbers(np.array([values[-1] for _, values in of_modality]), 2)}"
        for name, of_modality in lines.items()
        if of_modality
    ]
    return f"Block by block, from the first logged step to the last: {'; '.join(parts)}."


def _listed(values_of, blocks, unit=""):
    parts = [
        f"{block} {name} {values[place]:.2f}{unit}"
        for place, block in enumerate(blocks)
        for name, values in values_of.items()
        if values[place] is not None
    ]
    return f"{', '.join(parts)}." if parts else ""


def _numbers(values, digits=0):
    return ", ".join(f"{value:.{digits}f}" for value in values)
