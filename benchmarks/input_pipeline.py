"""The input pipeline against decoding JPEGs alone: from TFRecords to batches for the device."""

import functools
import os
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks import timing
from benchmarks.photographs import write_photographs
from limoe_tf.data import batches, images, sources
from limoe_tf.data.faults import check_captions
from limoe_tf.data.position import shuffled_windows
from limoe_tf.data.records import raw_records
from limoe_tf.data.words import Vocabulary, train_vocabulary

SIZE = 224
ALONE = "decoding alone"
WHOLE = {
    "batches: plain resize": {},
    "batches: random resized crop": {"crop": "random_resized_crop"},
    "batches: random resized crop, flip": {"crop": "random_resized_crop", "flip": True},
}


def _in_full(encoded):
    return tf.io.decode_jpeg(encoded, channels=3)


_small = functools.partial(images.decode, size=SIZE)
ANTIALIASED = "decoded in full, antialiased bilinear"
# Name to how to decode, and arguments of tf.image.resize.
WAYS = {
    "decoded small, bilinear": (_small, {}),
    "decoded small, area": (_small, {"method": "area"}),
    "decoded small, antialiased bilinear": (_small, {"antialias": True}),
    "decoded in full, bilinear": (_in_full, {}),
    "decoded in full, area": (_in_full, {"method": "area"}),
    ANTIALIASED: (_in_full, {"antialias": True}),
}
REMARKS = f"""\
{{count}} photographs of {{kilobytes:.0f}} kB on average, to {SIZE} x {SIZE} pixels, in batches of
{{batch_size}}. "{ALONE}" is `tf.io.decode_jpeg` of the same bytes, in memory, in a parallel map,
and nothing else: libjpeg-turbo as TensorFlow has it. "batches" are `training_batches`, from
TFRecords to uint8 images and token ids; "stage" is one of their stages by itself; the last rows are
ways to resize. All are timed interleaved. Rates are medians; ratios are taken within rounds, and
given as median (quartiles): "of decoding" of wall-clock rates, "processor" of rates per
processor time, which other work on the machine disturbs less. "share" is the processor time of an
image, where decoding takes 1. "dB" is the PSNR to images decoded in full and resized with
antialiasing.
"""


class Examples(NamedTuple):
    """The stages' inputs, in memory: records, JPEGs and captions, <string>[n] each."""

    records: tf.Tensor
    encoded: tf.Tensor
    captions: tf.Tensor


def measure(
    *,
    rounds: int,
    progress: Callable,
    threads: int = 2,
    data: str | None = None,
    count: int = 256,
    window: int = 1024,
    batch_size: int = 64,
) -> timing.Table:
    """Times the input pipeline and its stages.

    Args:
      rounds: how often each is measured.
      progress: called with text to show.
      threads: images decoded at the same time.
      data: pattern of TFRecords with JPEGs as `jpg` and captions as `caption`; None makes some.
      count: photographs to make; stages and decoding alone read as many from `data`.
      window: records shuffled together.
      batch_size: B.

    Returns:
      `timing.Table` with a row for each form.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = data or write_photographs(os.path.join(folder, "photographs"), count)
        source = sources.TfrecordSource(data)
        examples = _examples(source, count)
        vocabulary = _vocabulary(os.path.join(folder, "words.model"), examples.captions)
        forms = {
            ALONE: _mapped(examples.encoded, lambda _, encoded: _in_full(encoded)[0, 0], threads),
            **_whole_pipelines(source, vocabulary, window, batch_size, threads),
            **_stages(source, vocabulary, examples, threads),
            **{
                name: _mapped(examples.encoded, _resize(*way), threads)
                for name, way in WAYS.items()
            },
        }
        forms = {
            name: form.batch(batch_size) if name not in WHOLE else form
            for name, form in forms.items()
        }
        # A turn of the whole reads as many records as images, if it takes one window.
        steps = {
            name: functools.partial(
                _take, form, (window if name in WHOLE else count) // batch_size, batch_size
            )
            for name, form in forms.items()
        }
        times = timing.interleaved(
            steps, rounds=rounds, turn=_turn, after_round=lambda: progress(".")
        )
        progress("\n")
    decibels = _decibels(examples.encoded[:32])
    records = [_record(name, times, decibels.get(name)) for name in forms]
    kilobytes = np.mean(tf.strings.length(examples.encoded)) / 1000
    return timing.Table(
        title="Input pipeline and decoding alone",
        remarks=REMARKS.format(count=count, kilobytes=kilobytes, batch_size=batch_size),
        columns=["form", "images/s", "of decoding", "processor", "share", "dB"],
        rows=[_row(record) for record in records],
        records=records,
    )


def _examples(source, count):
    records = [record for _, _, record in raw_records(source).take(count)]
    parsed = [source.parse(record) for record in records]
    return Examples(
        tf.stack(records),
        tf.stack([one["image"] for one in parsed]),
        tf.stack([one["captions"][0] for one in parsed]),
    )


def _vocabulary(path, captions):
    texts = [caption.decode() for caption in captions.numpy()]
    train_vocabulary(texts, path=path, size=1000, exact_size=False, algorithm="bpe")
    return Vocabulary(path, text_length=16)


def _whole_pipelines(source, vocabulary, window, batch_size, threads):
    return {
        name: batches.training_batches(
            source,
            vocabulary=vocabulary,
            batch_size=batch_size,
            image_size=SIZE,
            seed=0,
            num_threads=threads,
            shuffle_window=window,
            **settings,
        )
        for name, settings in WHOLE.items()
    }


def _stages(source, vocabulary, examples, threads):
    """Returns datasets of one stage each, example by example."""
    windows = shuffled_windows(source, size=len(examples.records), seed=0, first=0)

    def shuffled(_, order, window):
        sizes = tf.strings.length(window[-1])
        return tf.data.Dataset.from_tensor_slices(tf.gather(sizes, order))

    def parse(_, record):
        return tf.strings.length(check_captions(source.parse(record))["image"])

    def image(number, encoded, settings):
        return images.training_image(encoded, tf.stack([number, 0]), size=SIZE, **settings)

    tokens = _memory(examples.captions).batch(64).map(vocabulary).unbatch()
    pixels = tf.zeros([SIZE, SIZE, 3], tf.uint8)
    return {
        "stage: reading and shuffling": windows.flat_map(shuffled),
        "stage: parsing and checking": _mapped(examples.records, parse, threads),
        **{
            name.replace("batches", "stage"): _mapped(
                examples.encoded, functools.partial(image, settings=settings), threads
            )
            for name, settings in WHOLE.items()
        },
        "stage: batching": tf.data.Dataset.from_tensors(pixels).repeat(),
        "stage: tokenising": tokens,
    }


def _resize(decode, settings):
    def resize(_, encoded):
        pixels = tf.image.resize(decode(encoded), (SIZE, SIZE), **settings)
        return tf.cast(tf.round(tf.clip_by_value(pixels, 0, 255)), tf.uint8)

    return resize


def _decibels(encoded):
    """Returns the mean PSNR of each other way to resize, relative to the antialiased one."""
    resized = {
        name: tf.stack([_resize(*way)(0, one) for one in encoded]) for name, way in WAYS.items()
    }
    wanted = resized.pop(ANTIALIASED)
    return {
        name: float(tf.reduce_mean(tf.image.psnr(found, wanted, 255)))
        for name, found in resized.items()
    }


def _memory(values):
    return tf.data.Dataset.from_tensor_slices(values).repeat()


def _mapped(values, function, threads):
    return _memory(values).enumerate().map(function, num_parallel_calls=threads, deterministic=True)


def _take(dataset, num_batches, batch_size):
    """Returns the wall-clock and processor seconds per image.

    Makes a new iterator, so that nothing was prefetched in the turns of others.
    """
    iterator = iter(dataset)
    for _ in range(2):
        next(iterator)
    times = timing.repeat(lambda: [next(iterator) for _ in range(num_batches)], 0)
    return [seconds / (num_batches * batch_size) for seconds in times]


def _turn(take, _):
    return take()


def _record(name, times, decibels):
    alone, own = times[ALONE], times[name]
    return {
        "form": name,
        "images_per_second": timing.spread(1 / own.wall),
        "of_decoding": timing.spread(alone.wall / own.wall),
        "processor_of_decoding": timing.spread(alone.processor / own.processor),
        "share_of_decoding": timing.spread(own.processor / alone.processor),
        "decibels": decibels,
    }


def _row(record):
    decibels = record["decibels"]
    return [
        record["form"],
        f"{record['images_per_second']['median']:.0f}",
        timing.shown(record["of_decoding"]),
        timing.shown(record["processor_of_decoding"]),
        f"{record['share_of_decoding']['median']:.3f}",
        "" if decibels is None else f"{decibels:.1f}",
    ]
