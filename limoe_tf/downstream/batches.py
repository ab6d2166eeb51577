"""Batches of a task: its images, its texts and what is asked of them, from records.

Axis letters: B examples, S side of an image, N word pieces of a text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data import images
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import each_once, endless, with_options
from limoe_tf.data.mixture import Mixture
from limoe_tf.data.records import Source
from limoe_tf.data.training_examples import drawn, endless_batches
from limoe_tf.data.words import Vocabulary

Record = Mapping[str, tf.Tensor]


class Fields(NamedTuple):
    """What a task reads of a record, by the names under which its source has it.

    Attributes:
      images: of encoded images, under which a batch has them, too.
      texts: dict by name in the batch of the texts of a record that are read as one. Where a record
        has several of a name, such as captions, training draws one, and evaluation takes the first.
      labels: function of a record to a dict of tensors of static shape, what training asks for.
    """

    images: Sequence[str]
    texts: Mapping[str, Sequence[str]]
    labels: Callable[[Record], dict[str, tf.Tensor]]


@tf.autograph.experimental.do_not_convert
def task_batches(
    source: Source | Mixture,
    *,
    vocabulary: Vocabulary,
    batch_size: int,
    image_size: int,
    fields: Fields,
    seed: int,
    crop: str = "resize",
    crop_area: Sequence[float] = images.CROP_AREA,
    flip: bool = False,
    **reading: Any,
) -> tf.data.Dataset:
    """Makes the endless dataset of training batches of a task; see `data.batches.training_batches`.

    Args:
      source: of records with `fields`.
      vocabulary: Vocabulary.
      batch_size: B, examples of a batch over all replicas.
      image_size: S, side of the images in pixels.
      fields: Fields of the task.
      seed: decides the order, crops and flips.
      crop: see `images.training_image`; the images of a record are cropped alike.
      crop_area: see there.
      flip: see there; words such as "left" then mean nothing.
      **reading: `start_step`, `shuffle_window`, `bad_records` and others of `training_batches`.

    Returns:
      tf.data.Dataset of dicts: of each image <uint8>[B, S, S, 3]; of each text `NAME` <int32>[B, N]
      and `NAME_valid` <bool>[B, N]; and the labels.

    Raises:
      ValueError: if the records lack a field, the source is empty, or an argument is out of range.
    """
    checks.positive_int("image_size", image_size)
    checks.one_of("crop", crop, images.TRAINING_CROPS)

    def load_from(part, seed):
        def load(position, record):
            text_seed, image_seed = tf.unstack(tf.random.split(tf.stack([seed, position])))
            record = part.parse(record, text_seed)
            options = {"size": image_size, "crop": crop, "crop_area": crop_area, "flip": flip}
            return _example(
                record,
                fields,
                lambda image: images.training_image(image, image_seed, **options),
                lambda texts: drawn(texts, text_seed),
            )

        return load

    batches = endless_batches(source, load_from, batch_size=batch_size, seed=seed, **reading)
    return endless(batches.map(lambda batch: _tokenized(batch, fields, vocabulary)))


@tf.autograph.experimental.do_not_convert
def all_examples(
    source: Source,
    *,
    vocabulary: Vocabulary,
    batch_size: int,
    image_size: int,
    fields: Fields,
    resize: str = "resize",
    kept: Sequence[str] = (),
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """Makes the dataset of all examples of a source, once, in a fixed order.

    Args:
      source: of records with `fields`.
      vocabulary: see `task_batches`, as of all others.
      resize: see `data.images.evaluation_image`.
      kept: more fields of the records, which are in the batches as they are: ragged if they are
        lists.

    Returns:
      tf.data.Dataset of dicts as of `task_batches`; the last batch may be smaller.
    """
    checks.positive_int("batch_size", batch_size)
    checks.one_of("resize", resize, images.EVALUATION_RESIZES)

    def load(_, record):
        record = source.parse(record)
        example = _example(
            record,
            fields,
            lambda image: images.evaluation_image(image, size=image_size, resize=resize),
            lambda texts: texts[0],
        )
        return {**example, **{name: _field(record, name) for name in kept}}

    batches = each_once(source, load, bad_records).ragged_batch(batch_size)
    return with_options(batches.map(lambda batch: _tokenized(batch, fields, vocabulary)))


def fields_of(source: Source) -> set[str]:
    """Returns the names of what a source's records have."""
    parse = tf.function(lambda record: source.parse(record), autograph=False)
    return set(parse.get_concrete_function(tf.TensorSpec([], tf.string)).structured_outputs)


def _example(record, fields, decode, choose):
    of_images = {name: decode(_field(record, name)) for name in fields.images}
    texts = {
        f"{name}/{number}": choose(tf.reshape(_field(record, part), [-1]))
        for name, parts in fields.texts.items()
        for number, part in enumerate(parts)
    }
    return {**of_images, **texts, **fields.labels(record)}


def _field(record, name):
    if name not in record:
        raise ValueError(
            f"Records must have what the task reads. Received: no {name!r} among {sorted(record)}"
        )
    return record[name]


def _tokenized(batch, fields, vocabulary):
    for name, parts in fields.texts.items():
        texts = [batch.pop(f"{name}/{number}") for number in range(len(parts))]
        batch[name], batch[f"{name}_valid"] = vocabulary(*texts)
    return batch
