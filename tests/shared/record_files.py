"""Small TFRecord files, and tars, for the tests of the data pipeline."""

import io
import tarfile

import numpy as np
import tensorflow as tf


def picture(value=0, *, height=20, width=24):
    """Returns an image of one colour with a little noise, <uint8>[H, W, 3]."""
    noise = np.random.default_rng(value).integers(0, 8, (height, width, 3))
    return (noise + value % 248).astype(np.uint8)


def jpeg(value=0, **size):
    return tf.io.encode_jpeg(picture(value, **size), quality=95).numpy()


def example(**features):
    """Returns a serialized `tf.train.Example` of bytes, lists of bytes and lists of integers."""
    return tf.train.Example(
        features=tf.train.Features(feature={key: _feature(v) for key, v in features.items()})
    ).SerializeToString()


def write(path, records, compression=""):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return str(path)


def write_pairs(path, count, *, first=0, compression=""):
    """Writes images i = first, ..., each of colour i and with captions "image i caption 0", 1."""
    records = []
    for i in range(first, first + count):
        captions = [f"image {i} caption {c}".encode() for c in range(2)]
        records.append(example(jpg=jpeg(i), caption=captions, label=[i % 3]))
    return write(path, records, compression)


def write_tar(path, members, **settings):
    """Writes a tar of (name, bytes), or of a tarfile.TarInfo in place of the pair."""
    with tarfile.open(path, "w", **settings) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return str(path)


def _feature(values):
    if isinstance(values, bytes):
        values = [values]
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
