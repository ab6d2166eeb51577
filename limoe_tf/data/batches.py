"""Datasets of batches from a source: images and tokenized texts, with static shapes."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data import images, mixture
from limoe_tf.data.bad_records import BadRecords, skip_bad
from limoe_tf.data.faults import check_captions
from limoe_tf.data.position import plain_windows
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.records import Source
from limoe_tf.data.training_examples import endless_batches, image_and_caption
from limoe_tf.data.words import Vocabulary

_EVALUATION_WINDOW = 1024


# Without it AutoGraph converts the functions of each dataset anew; none of them needs it.
@tf.autograph.experimental.do_not_convert
def training_batches(
    source: Source | mixture.Mixture,
    *,
    vocabulary: Vocabulary | None,
    batch_size: int,
    image_size: int | None,
    seed: int,
    start_step: int = 0,
    num_draws: int = 0,
    crop: str = "resize",
    crop_area: Sequence[float] = images.CROP_AREA,
    flip: bool = False,
    colours: str = "off",
    shuffle_window: int = 2048,
    bad_records: BadRecords | None = None,
    num_threads: int | None = None,
    record_index: RecordIndex | None = None,
    input_context: "tf.distribute.InputContext | None" = None,
) -> tf.data.Dataset:
    """Makes the endless dataset of training batches.

    Batch number n depends on the source, `seed`, `batch_size`, `shuffle_window` and n only: not
    on threads, on the step of a restart or on what was read before. The order is that of
    `position.shuffled_windows`; a bad record is replaced by another one of its window.

    Args:
      source: TfdsSource or TfrecordSource, LabelCaptions, or a Mixture, with what is asked for.
      vocabulary: Vocabulary; None for images alone, of records with captions or not.
      batch_size: B, examples of a batch over all replicas.
      image_size: S, side of the images in pixels; None for texts alone: images are not decoded.
      seed: decides the order, the caption drawn for each image, crops, flips and colours.
      start_step: number of the first batch. Reading starts with its window, or shortly before; see
        `record_stream.endless_records`.
      num_draws: U, numbers that are drawn uniformly from [0, 1) for each example.
      crop: see `images.training_image`.
      crop_area: see `images.training_image`.
      flip: see `images.training_image`.
      colours: "silent" draws colours for PNGs with alpha, as `colours.training_image` does, instead
        of showing them on white; "named" also puts the word for a drawn foreground in front of the
        caption.
      shuffle_window: records shuffled together, at least B. Up to three windows of encoded
        records are kept in memory, for each part of a mixture.
      bad_records: BadRecords that counts and limits the bad records; None makes one with its
        default limits.
      num_threads: images decoded at the same time; None takes the number of cores.
      record_index: RecordIndex of the source's files, which saves indexing them at each start; None
        indexes them now if `start_step` requires it.
      input_context: `tf.distribute.InputContext` of a host that feeds some of the replicas. Its
        dataset has a batch [B / replicas, ...] for each of them, and decodes only their records. If
        there are other hosts, each replaces a bad record by one of its own and prints where it
        was.

    Returns:
      tf.data.Dataset of dicts: `image` <uint8>[B, S, S, 3], `text` <int32>[B, N], `text_valid`
      <bool>[B, N] and `draws` <float32>[B, U], as far as they are asked for.

    Raises:
      ValueError: if the source is empty or without the captions or images that are asked for, a
        part of a mixture does not get a whole number of rows of the batch, or an argument is out of
        range.
    """
    _check_training(source, vocabulary, image_size, crop)
    checks.integer_in("num_draws", num_draws, 0)

    def load_from(part, seed):
        return image_and_caption(
            part,
            seed,
            size=image_size,
            with_caption=vocabulary is not None,
            num_draws=num_draws,
            colours=colours,
            crop=crop,
            crop_area=crop_area,
            flip=flip,
        )

    batches = endless_batches(
        source,
        load_from,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        shuffle_window=shuffle_window,
        bad_records=bad_records,
        num_threads=num_threads,
        record_index=record_index,
        input_context=input_context,
    )
    batches = batches.map(lambda examples: _tokenized(examples, vocabulary))
    return endless(batches)


def _check_training(source, vocabulary, image_size, crop):
    if image_size is not None:
        checks.positive_int("image_size", image_size)
        mixture.check_has(source, "images", to="to train on")
    elif vocabulary is None:
        raise ValueError(
            "Batches must hold images or texts. Received: image_size=None, vocabulary=None"
        )
    checks.one_of("crop", crop, images.TRAINING_CROPS)
    if vocabulary is not None:
        mixture.check_has(source, "captions", to="to train on")


def _tokenized(examples, vocabulary):
    if "caption" in examples:
        caption = examples.pop("caption")
        examples["text"], examples["text_valid"] = vocabulary(caption)
    return examples


@tf.autograph.experimental.do_not_convert
def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    vocabulary: Vocabulary | None = None,
    resize: str = "resize",
    bad_records: BadRecords | None = None,
    num_threads: int | None = None,
) -> tf.data.Dataset:
    """Makes the dataset of all examples of a source, once, in a fixed order.

    The last batch may be smaller. Bad records are skipped.

    Args:
      source: TfdsSource or TfrecordSource.
      batch_size: B, images of a batch.
      image_size: S, side of the images in pixels.
      vocabulary: Vocabulary that tokenizes all captions, or None.
      resize: see `images.evaluation_image`.
      bad_records: see `training_batches`.
      num_threads: see `training_batches`.

    Returns:
      tf.data.Dataset of dicts: `image` <uint8>[B, S, S, 3]; where the source has them `captions`
      ragged <string>[B, None] and `labels` ragged <int64>[B, None]; and, with a vocabulary and
      captions, the entries of `tokenize_all`.

    Raises:
      ValueError: if the source is empty or an argument is out of range.
      TypeError: if the source is a Mixture.
    """
    if isinstance(source, mixture.Mixture):
        raise TypeError(f"`source` must be one source, not a Mixture. Received: {source.name}")
    checks.positive_int("batch_size", batch_size)
    checks.positive_int("image_size", image_size)
    mixture.check_has(source, "images", to="to evaluate on")
    checks.one_of("resize", resize, images.EVALUATION_RESIZES)

    def load(_, record):
        record = source.parse(record)
        image = images.evaluation_image(record["image"], size=image_size, resize=resize)
        return {**_checked(record), "image": image}

    def finish(batch):
        if vocabulary is None or not source.has_captions:
            return batch
        return {**batch, **tokenize_all(batch["captions"], vocabulary)}

    examples = each_once(source, load, bad_records, num_threads)
    return with_options(examples.ragged_batch(batch_size).map(finish))


def tokenize_all(captions: tf.RaggedTensor, vocabulary: Vocabulary) -> dict[str, tf.Tensor]:
    """Tokenizes several captions per image.

    Args:
      captions: ragged <string>[B, None].
      vocabulary: Vocabulary.

    Returns:
      dict of `text` <int32>[M, N] and `text_valid` <bool>[M, N] of all M captions, image after
      image, and `image_of_text` <int64>[M] index of their image in the batch.
    """
    text, text_valid = vocabulary(captions.flat_values)
    return {"text": text, "text_valid": text_valid, "image_of_text": captions.value_rowids()}


def all_captions(
    source: Source | mixture.Mixture, *, bad_records: BadRecords | None = None
) -> Iterator[str]:
    """Yields each caption of a source as a Python string; images are not decoded.

    Args:
      source: TfdsSource or TfrecordSource with captions, LabelCaptions, or a Mixture of them, whose
        parts are read sequentially, each once.
      bad_records: see `training_batches`.

    Raises:
      ValueError: if the source is empty or without captions, or too many records are bad.
    """
    mixture.check_has(source, "captions", to="to read")
    parts = source.parts if isinstance(source, mixture.Mixture) else {source.name: source}
    bad_records = BadRecords() if bad_records is None else bad_records
    with bad_records.as_value_error():
        for part, of_part in zip(parts.values(), bad_records.of_sources(list(parts))):
            yield from _captions(part, of_part)


def _captions(source, bad_records):
    def load(_, record):
        return check_captions(source.parse(record))["captions"]

    examples = each_once(source, load, bad_records, num_threads=None)
    for captions in examples.unbatch().batch(1024).as_numpy_iterator():
        yield from (caption.decode("utf-8") for caption in captions)


def all_labels(source: Source, *, most: int | None = None) -> list[list[int]]:
    """Returns the labels of a source's records as a list of lists; images are not decoded.

    Args:
      source: TfdsSource or TfrecordSource with labels.
      most: read the first so many records only; None reads all.

    Raises:
      ValueError: if the source is empty or without labels, or too many records are bad.
    """
    if not source.has_labels:
        raise ValueError(f"A source must have labels. Received: {source.name}")
    bad_records, found = BadRecords(), []
    examples = each_once(
        source, lambda _, record: source.parse(record)["labels"], bad_records, num_threads=None
    )
    with bad_records.as_value_error():
        for labels in examples.take(-1 if most is None else most).ragged_batch(1024):
            found += labels.to_list()
    return found


@tf.autograph.experimental.do_not_convert
def each_once(
    source: Source,
    load: Callable[[tf.Tensor, tf.Tensor], Any],
    bad_records: BadRecords | None = None,
    num_threads: int | None = None,
) -> tf.data.Dataset:
    """Returns what is loaded of all records, once, in a fixed order; bad ones are skipped.

    Args:
      source: of the records.
      load: see `bad_records.skip_bad`.
      bad_records: see `training_batches`.
      num_threads: see `training_batches`.
    """
    bad_records = BadRecords() if bad_records is None else bad_records
    bad_records.begin(0)
    return plain_windows(source, size=_EVALUATION_WINDOW).flat_map(
        skip_bad(
            load,
            source=source,
            bad_records=bad_records,
            refill=False,
            num_threads=num_threads or os.cpu_count(),
        )
    )


def _checked(record):
    # An image without a caption is valid only where captions are not asked for.
    return check_captions(record) if "captions" in record else record


def endless(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns batches that never end with the options of all: only such keep static shapes."""
    without_end = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return with_options(batches.apply(without_end))


def with_options(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns batches with the options of all of this package's: ordered, and made ahead."""
    options = tf.data.Options()
    options.deterministic = True
    # Images keep the cores busy; intra-op threads and autotuning only take time from them.
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    # Each of several workers reads all records and keeps its part of every batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options).prefetch(2)
