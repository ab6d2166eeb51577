"""The training examples of one source, in order: decoded images, one drawn caption, or both."""

from collections.abc import Sequence

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data import colours as drawn_colours
from limoe_tf.data import images
from limoe_tf.data.bad_records import BadRecords, skip_bad
from limoe_tf.data.faults import check_captions
from limoe_tf.data.mixture import Part
from limoe_tf.data.position import HostPart, shuffled_windows
from limoe_tf.data.record_index import RecordIndex


def training_examples(
    part: Part,
    *,
    host_part: HostPart,
    start_step: int,
    size: int | None,
    with_caption: bool,
    num_draws: int,
    crop: str,
    crop_area: Sequence[float],
    flip: bool,
    colours: str,
    shuffle_window: int,
    bad_records: BadRecords,
    num_threads: int,
    record_index: RecordIndex | None,
) -> tf.data.Dataset:
    """Makes the endless dataset of a source's examples; see `batches.training_batches`.

    Args:
      part: `mixture.Part`, the source and its rows in each batch.
      host_part: `position.HostPart` of these rows; the examples of other hosts are skipped.
      start_step: number of the first batch.
      size: S, side of the images in pixels; None leaves images out.
      with_caption: whether each example has a caption.
      num_draws: U, numbers that are drawn for each example.
      crop: see `images.training_image`.
      crop_area: see `images.training_image`.
      flip: see `images.training_image`.
      colours: see `batches.training_batches`.
      shuffle_window: records shuffled together.
      bad_records: BadRecords of this source.
      num_threads: images decoded at the same time.
      record_index: see `record_stream.endless_records`.

    Returns:
      tf.data.Dataset of dicts of `image` <uint8>[S, S, 3], `caption` <string>[] and `draws`
      <float32>[U], as far as they are asked for.
    """
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
            _load(
                part.source,
                seed=part.seed,
                colours=colours,
                with_caption=with_caption,
                num_draws=num_draws,
                size=size,
                crop=crop,
                crop_area=crop_area,
                flip=flip,
            ),
            source=part.source,
            bad_records=bad_records if host_part.num_parts == 1 else None,
            refill=True,
            num_threads=num_threads,
        )
    )
    return examples.skip(host_part.size(first) - host_part.size(first_window * shuffle_window))


def _load(source, *, seed, colours, with_caption, num_draws, size, **options):
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
            caption = _drawn(record["captions"], caption_seed)
            example["caption"] = _named(word, caption) if colours == "named" else caption
        if num_draws:
            draws_seed = tf.random.fold_in(image_seed, 1)
            example["draws"] = tf.random.stateless_uniform([num_draws], draws_seed)
        return example

    return load


def _drawn(captions, seed):
    return captions[tf.random.stateless_uniform([], seed, maxval=tf.size(captions), dtype=tf.int32)]


def _named(word, caption):
    return tf.where(word == "", caption, tf.strings.join([word, caption], separator=" "))
