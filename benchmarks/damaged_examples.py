"""Damaged records through evaluation and training: each is used, or left out and named."""

import io
import os
import pathlib
import random
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks import damage
from limoe_tf.data import batches, sources
from limoe_tf.data.bad_records import BadRecords

_BATCH = 50
_WINDOW = 250
_SHARD = 500
_SIZE = 16
_UNEXPLAINED = "cannot be loaded"
_CAPTIONS = [
    [], [b""], [b" \t"], ["\u200b\u200d\ufeff".encode()], [b"\x00\x01"], ["\u2800\u3164".encode()],
    [b"\xff\xfe"], [b"a dog", b"\xe9"], [b"a dog", b" "], [b"a dog" * 4000], [b"dog\x00cat"],
]  # fmt: skip


def measure(folder: str, *, count: int, seed: int, say: Callable[[str], None]) -> damage.Result:
    """Reads damaged records in all ways.

    Args:
      folder: where they are written.
      count: how many, a multiple of 250.
      seed: of the damage.
      say: function that shows a line.
    """
    write(folder, count=count, seed=seed)
    source = sources.TfrecordSource(os.path.join(folder, "*.tfrecord"))
    found, faults = {}, []
    for name, read in _READERS.items():
        bad_records = _Named(count)
        delivered = read(source, count, bad_records, damage.Progress(name, count, say))
        found[name] = bad_records.named
        faults += [f"{name}: {one}" for one in _faults(name, delivered, count, bad_records)]
    for name, named in found.items():
        differ = sorted(named.keys() ^ found["evaluation"].keys())
        faults += [f"{name}: {path} record {i} is used by one way only" for path, i in differ]
    bad = len(found["evaluation"])
    return damage.Result(count, f"{count - bad:,}", f"{bad:,}", faults)


def write(folder: str | os.PathLike, *, count: int, seed: int) -> None:
    """Writes damaged records into files of 500."""
    pictures = _pictures()
    for first in range(0, count, _SHARD):
        path = os.path.join(folder, f"{first // _SHARD:03}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(first, min(first + _SHARD, count)):
                writer.write(_record(random.Random(f"{seed} {number}"), number, pictures))


class _Named(BadRecords):
    """Keeps the place and the reason of every bad record of the first epoch."""

    def __init__(self, count):
        super().__init__(max_share=1.0)
        self.named = {}
        self._num_records = count

    def note(self, position, path, number, reason):
        super().note(position, path, number, reason)
        if position < self._num_records:
            self.named[path, number] = reason


def _evaluate(source, count, bad_records, progress):
    delivered = 0
    dataset = batches.evaluation_batches(
        source, batch_size=_BATCH, image_size=_SIZE, bad_records=bad_records
    )
    for batch in dataset:
        delivered += len(batch["image"])
        progress(delivered)
    return delivered


def _train(crop):
    def read(source, count, bad_records, progress):
        dataset = batches.training_batches(
            source,
            vocabulary=_tokens,
            batch_size=_BATCH,
            image_size=_SIZE,
            seed=0,
            crop=crop,
            shuffle_window=_WINDOW,
            bad_records=bad_records,
        )
        delivered = 0
        for batch in dataset.take(count // _BATCH):
            delivered += len(batch["image"])
            progress(delivered)
        return delivered

    return read


_READERS = {
    "evaluation": _evaluate,
    "training, resize": _train("resize"),
    "training, random crop": _train("random_resized_crop"),
}


def _tokens(captions):
    lengths = tf.strings.length(captions)[:, tf.newaxis]
    return lengths, tf.ones_like(lengths, tf.bool)


def _faults(name, delivered, count, bad_records):
    named = bad_records.named
    # Training puts another record in the place of each bad one.
    wanted = count - len(named) if name == "evaluation" else count
    if delivered != wanted:
        yield f"{delivered:,} records delivered in place of {wanted:,}"
    for (path, number), reason in named.items():
        if reason == _UNEXPLAINED or not pathlib.Path(path).exists():
            yield f"{path} record {number}: {reason}"


def _pictures():
    """Returns encoded images of each format."""
    pixels = np.random.default_rng(0).integers(0, 255, [6, 8, 3]).astype(np.uint8)
    image = Image.fromarray(pixels).resize((48, 36))
    forms = [
        *(("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "L", {})),
        *(("JPEG", "CMYK", {}), ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {})),
        *(("GIF", "P", {}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True})),
        ("BMP", "RGB", {}),
    ]
    return [_encoded(image.convert(mode), form, **options) for form, mode, options in forms]


def _encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _record(draw, number, pictures):
    """Returns a record damaged as a whole, in its image or in its captions, or not at all."""
    image = draw.choice(pictures)
    captions = [f"a picture, number {number}".encode()] * draw.choice([1, 1, 3])
    kind = draw.choice(["whole", "image", "image", "captions", "key", "nothing"])
    if kind == "image":
        image = damage.damage(draw, image)
    if kind == "captions":
        captions = draw.choice(_CAPTIONS)
    key = draw.choice(["png", "jp\ng", "", "\u200b"]) if kind == "key" else "jpg"
    record = _example({key: [image], "caption": captions})
    return damage.damage(draw, record) if kind == "whole" else record


def _example(values):
    features = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        for key, value in values.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
