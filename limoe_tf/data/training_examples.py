"""The training examples of sources, in order: decoded images, one drawn caption, or both."""

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data import colours as drawn_colours
from limoe_tf.data import images, mixture
from limoe_tf.data.bad_records import BadRecords, skip_bad
from limoe_tf.data.faults import check_captions
from limoe_tf.data.position import HostPart, shuffled_windows
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.records import Source

Load = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def endless_batches(
    source: Source | mixture.Mixture,
    load_from: Callable[[Source, int], Load],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    shuffle_window: int = 2048,
    bad_records: BadRecords | None = None,
    num_threads: int | None = None,
    record_index: RecordIndex | None = None,
    input_context: "tf.distribute.InputContext | None" = None,
) -> tf.data.Dataset:
    """Makes the endless dataset of batches of what is loaded of records, in a shuffled order.

    Args:
      source: a source or a Mixture.
      load_from: function of a source and a seed to the function that `bad_records.skip_bad` takes:
        (position, record) -> dict of tensors.
      batch_size: see `batches.training_batches`, as of all others.

    Returns:
      tf.data.Dataset of dicts of the tensors of B examples, or of one replica's part of them.

    Raises:
      ValueError: if the source is empty, a part of a mixture does not get a whole number of rows of
        the batch, or an argument is out of range.
    """
    checks.positive_int("batch_size", batch_size)
    checks.integer_in("shuffle_window", shuffle_window, batch_size)
    checks.integer_in("seed", seed, 0)
    checks.integer_in("start_step", start_step, 0)
    host = HostPart(batch_size, input_context)
    parts = mixture.parts_of(source, batch_size=batch_size, seed=seed)
    bad_records = BadRecords() if bad_records is None else bad_records
    examples = [
        _of_part(
            part,
            load_from(part.source, part.seed),
            host_part=HostPart(batch_size, input_context, part.places),
            start_step=start_step,
            shuffle_window=shuffle_window,
            bad_records=of_part,
            num_threads=num_threads or os.cpu_count(),
            record_index=record_index,
        )
        for part, of_part in zip(parts, bad_records.of_sources([part.name for part in parts]))
    ]
    examples = mixture.interleaved(examples, parts, host.rows)
    return examples.batch(host.replica_batch, drop_remainder=True)


def _of_part(
    part, load, *, host_part, start_step, shuffle_window, bad_records, num_threads, record_index
):
    """Returns the endless examples of a source, of which other hosts' are skipped."""
    first = start_step * len(part.places)
    first_window = first // shuffle_window
    bad_records.begin(first_window * shuffle_window)
    windows = shuffled_windows(
        part.source,
        size=shuffle_window,
        seed=part.seed,
        first=first_window,
        is_mine=host_part.holds,
        index=record_index,
        in_graph=host_part.num_parts > 1,
    )
    examples = windows.flat_map(
        skip_bad(
            load,
            source=part.source,
            bad_records=bad_records if host_part.num_parts == 1 else None,
            refill=True,
            num_threads=num_threads,
        )
    )
    return examples.skip(host_part.size(first) - host_part.size(first_window * shuffle_window))


def image_and_caption(
    source: Source,
    seed: int,
    *,
    size: int | None,
    with_caption: bool,
    num_draws: int,
    colours: str,
    **options: Any,
) -> Load:
    """Returns the function that loads an example of a pair, or of one half of it.

    Args:
      source: of the records.
      seed: decides what is drawn for an example, with its position.
      size: S, side of the images in pixels; None leaves images out.
      with_caption: whether each example has a caption.
      num_draws: U, numbers that are drawn for each example.
      colours: see `batches.training_batches`.
      **options: see `images.training_image`.

    Returns:
      function of a position and a record to a dict of `image` <uint8>[S, S, 3], `caption`
      <string>[] and `draws` <float32>[U], as far as they are asked for.
    """
    checks.one_of("colours", colours, drawn_colours.MODES)

    def load(position, record):
        caption_seed, image_seed = tf.unstack(tf.random.split(tf.stack([seed, position])))
        record, example, word = source.parse(record, caption_seed), {}, ""
        if with_caption:
            record = check_captions(record)
        if size is not None and colours == "off":
            example["image"] = images.training_image(
                record["image"], image_seed, size=size, **options
            )
        elif size is not None:
            example["image"], word = drawn_colours.training_image(
                record["image"], image_seed, size=size, **options
            )
        if with_caption:
            caption = drawn(record["captions"], caption_seed)
            example["caption"] = _named(word, caption) if colours == "named" else caption
        if num_draws:
            draws_seed = tf.random.fold_in(image_seed, 1)
            example["draws"] = tf.random.stateless_uniform([num_draws], draws_seed)
        return example

    return load


def drawn(captions: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns one of <string>[n] texts, by a seed <int64>[2]; an error if there is none."""
    return captions[tf.random.stateless_uniform([], seed, maxval=tf.size(captions), dtype=tf.int32)]


def _named(word, caption):
    return tf.where(word == "", caption, tf.strings.join([word, caption], separator=" "))
