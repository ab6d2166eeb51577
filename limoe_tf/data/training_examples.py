"""The training examples of one source, in order: decoded images, each with one drawn caption."""

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
    size: int,
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
      size: S, side of the images in pixels.
      crop: see `images.training_image`.
      crop_area: see `images.training_image`.
      flip: see `images.training_image`.
      colours: see `batches.training_batches`.
      shuffle_window: records shuffled together.
      bad_records: BadRecords of this source.
      num_threads: images decoded at the same time.
      record_index: see `record_stream.endless_records`.

    Returns:
      tf.data.Dataset of images <uint8>[S, S, 3] and captions <string>[].
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


def _load(source, *, seed, colours, **options):
    checks.one_of("colours", colours, drawn_colours.MODES)

    def load(position, record):
        caption_seed, image_seed = tf.unstack(tf.random.split(tf.stack([seed, position])))
        record = check_captions(source.parse(record, caption_seed))
        captions = record["captions"]
        drawn = tf.random.stateless_uniform(
            [], caption_seed, maxval=tf.size(captions), dtype=tf.int32
        )
        caption = captions[drawn]
        if colours == "off":
            return images.training_image(record["image"], image_seed, **options), caption
        image, word = drawn_colours.training_image(record["image"], image_seed, **options)
        return image, _named(word, caption) if colours == "named" else caption

    return load


def _named(word, caption):
    return tf.where(word == "", caption, tf.strings.join([word, caption], separator=" "))
