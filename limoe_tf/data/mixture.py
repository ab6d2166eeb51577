"""Interleaved sources, each with an exact share of every batch."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data.records import Source

_LARGEST_DENOMINATOR = 10_000


class Mixture:
    """A training source that takes a fixed number of rows of each batch from each of its parts.

    Weights of 3 and 1, or 0.75 and 0.25, mean 192 and 64 rows of each batch of 256. The rows of a
    part are spread evenly over the batch, at the same places in each: replicas get the same number
    of a part's rows wherever that is possible. Each part has its own order and its own windows, and
    repeats independently of the others when it reaches its end.

    Args:
      parts: dict from a name, used in reports, to a source. What only some of them have, captions
        or images, cannot be asked for.
      weights: dict from the same names to numbers proportional to the shares.

    Raises:
      ValueError: if the names differ, there are no parts, the parts have neither images nor
        captions in common, or a weight is not positive.
      TypeError: if a part is itself a mixture.
    """

    has_labels = False
    label_names = None

    def __init__(self, parts: Mapping[str, Source], *, weights: Mapping[str, float]):
        self.parts = dict(parts)
        self.name = " + ".join(self.parts)
        if not self.parts or sorted(self.parts) != sorted(weights):
            raise ValueError(
                "`weights` must have one number for each of the parts, of which there must be one. "
                f"Received: parts named {sorted(self.parts)}, weights={weights}"
            )
        for name, part in self.parts.items():
            checks.number_in(f"weights[{name!r}]", weights[name], 1 / _LARGEST_DENOMINATOR)
            if isinstance(part, Mixture):
                raise TypeError(f"A part must not be a Mixture. Received: {name!r}")
        self.has_images = all(part.has_images for part in self.parts.values())
        self.has_captions = all(part.has_captions for part in self.parts.values())
        if not (self.has_images or self.has_captions):
            lacking = {what: self.parts_without(what) for what in ("images", "captions")}
            raise ValueError(
                "All parts must have images, or all must have captions. "
                f"Received: without images {lacking['images']}, without captions "
                f"{lacking['captions']}"
            )
        self.weights = {name: weights[name] for name in self.parts}

    def parts_without(self, what: str) -> list[str]:
        """Returns the names of the parts without "images" or "captions"."""
        return [name for name, part in self.parts.items() if not getattr(part, f"has_{what}")]

    def rows(self, batch_size: int) -> dict[str, int]:
        """Returns a dict from the name of each part to its number of rows in a batch.

        Raises:
          ValueError: if a share of the batch is not a whole number of rows.
        """
        weights = {
            name: Fraction(weight).limit_denominator(_LARGEST_DENOMINATOR)
            for name, weight in self.weights.items()
        }
        shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        step = math.lcm(*(share.denominator for share in shares.values()))
        if batch_size % step:
            raise ValueError(
                f"`batch_size` must be a multiple of {step}, so that each batch can hold the "
                f"shares { {name: str(share) for name, share in shares.items()} } exactly. "
                f"Received: batch_size={batch_size}"
            )
        return {name: int(share * batch_size) for name, share in shares.items()}


def check_has(source: Source | Mixture, what: str, *, to: str) -> None:
    """Checks that a source has what is asked for.

    Args:
      source: a source, or a Mixture, of which all parts must have it.
      what: "images" or "captions".
      to: what for, in the error.

    Raises:
      ValueError: if it does not; the parts of a Mixture that lack it are named.
    """
    if getattr(source, f"has_{what}"):
        return
    lacking = ""
    if isinstance(source, Mixture):
        lacking = f", without them: {', '.join(map(repr, source.parts_without(what)))}"
    raise ValueError(f"A source must have {what} {to}. Received: {source.name}{lacking}")


class Part(NamedTuple):
    """A source's part in the batches.

    Attributes:
      name: of the source, in reports.
      source: TfdsSource, TfrecordSource, TextSource or LabelCaptions.
      seed: decides its order and what is drawn for its records.
      places: the rows of a batch that it fills, in ascending order.
    """

    name: str
    source: Source
    seed: int
    places: list[int]


def parts_of(source: Source | Mixture, *, batch_size: int, seed: int) -> list[Part]:
    """Returns the Parts of a mixture; any other source is one Part, with the seed itself.

    Raises:
      ValueError: if a share of the batch is not a whole number of rows.
    """
    if not isinstance(source, Mixture):
        return [Part(source.name, source, seed, list(range(batch_size)))]
    places = _spread(source.rows(batch_size))
    return [
        Part(name, part, seed_of_part(seed, number), places[name])
        for number, (name, part) in enumerate(source.parts.items())
    ]


def num_pairs(source: Source | Mixture, *, batch_size: int, num_steps: int) -> dict[str, int]:
    """Returns a dict from the name of each source to its number of pairs in these batches."""
    rows = source.rows(batch_size) if isinstance(source, Mixture) else {source.name: batch_size}
    return {name: num_steps * count for name, count in rows.items()}


def interleaved(
    streams: Sequence[tf.data.Dataset], parts: Sequence[Part], rows: Sequence[int]
) -> tf.data.Dataset:
    """Interleaves the examples of several parts in the order of the rows of a batch.

    Args:
      streams: an endless tf.data.Dataset for each part, of its examples in these rows.
      parts: the Parts.
      rows: consecutive rows of a batch.

    Returns:
      tf.data.Dataset of the examples of these rows, batch after batch.
    """
    if len(streams) == 1:
        return streams[0]
    part_of_row = {row: number for number, part in enumerate(parts) for row in part.places}
    choice = tf.constant([part_of_row[row] for row in rows], tf.int64)
    choices = tf.data.Dataset.from_tensor_slices(choice).repeat()
    return tf.data.Dataset.choose_from_datasets(streams, choices)


def _spread(rows):
    """Returns for each name as many places as it has rows, spread evenly over all places.

    If R divides all numbers of rows, each of R equal blocks of places has equally many of a name.
    """
    centres = [
        (Fraction(2 * row + 1, 2 * count), number, name)
        for number, (name, count) in enumerate(rows.items())
        for row in range(count)
    ]
    places = {name: [] for name in rows}
    for place, (_, _, name) in enumerate(sorted(centres)):
        places[name].append(place)
    return places


def seed_of_part(seed: int, number: int) -> int:
    """Returns the seed of one of several streams of records.

    With the same seed, those with equally many files would get the same order and crops.

    Args:
      seed: of all.
      number: of the stream.
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
