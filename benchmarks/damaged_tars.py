"""Damaged and foreign tars through the converter: each file is written, or named with a reason."""

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
from collections.abc import Callable

import tensorflow as tf

from benchmarks import damage
from limoe_tf.data import webdataset

_BLOCK = 512
_SAMPLES = 12
_FORMATS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]
_COMPRESSIONS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
_FOREIGN = [b"", b"<html>404</html>", b"{}", b"\xff\xd8\xff" + bytes(900), b"a,b\n"]


def measure(folder: str, *, count: int, seed: int, say: Callable[[str], None]) -> damage.Result:
    """Converts damaged tars.

    Args:
      folder: where they are written.
      count: how many.
      seed: of the damage.
      say: function that shows a line.
    """
    progress, faults = damage.Progress("tars", count, say), []
    records = left_out = unread = 0
    for number in range(count):
        draw, path = random.Random(f"{seed} {number}"), os.path.join(folder, f"{number}.tar")
        whole, ends = _tar(draw)
        kind = draw.choice(["whole", "damaged", "damaged", "damaged", "packed", "foreign"])
        content, word = _changed(kind, draw, whole)
        with open(path, "wb") as file:
            file.write(content)
        done = webdataset.convert(path, f"{path}.tfrecord", image=["jpg", "png"], caption="txt")
        records += done.num_records
        left_out += sum(map(len, done.left_out.values()))
        unread += done.fault is not None
        broken = _faults(kind, word, done, path, content, whole, ends)
        faults += [f"{path}: {one}" for one in broken]
        progress(number + 1)
    return damage.Result(
        count, f"{records:,} records", f"{left_out:,} files, {unread} tars", faults
    )


def _changed(kind, draw, whole):
    """Returns the bytes of the tar, and a word that its fault must hold."""
    if kind == "packed":
        name = draw.choice(sorted(_COMPRESSIONS))
        return _COMPRESSIONS[name](whole), name
    if kind == "foreign":
        return draw.choice(_FOREIGN), ""
    if kind == "whole":
        return whole, ""
    if draw.random() < 0.4:
        return _with_another_header(draw, whole), ""
    return damage.damage(draw, whole), ""


def _with_another_header(draw, whole):
    """Changes the size, the kind or the checksum in one of the headers."""
    place = draw.randrange(len(whole) // _BLOCK) * _BLOCK
    header = bytearray(whole[place : place + _BLOCK])
    sizes = [
        b"77777777777\0",
        b"\x80" + bytes(3) + b"\x01" + bytes(7),
        b"\xff" * 12,
        b"-0000000001\0",
    ]
    header[124:136] = draw.choice(sizes)
    header[156] = draw.choice(b"0xgLKSVs135")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return whole[:place] + bytes(header) + whole[place + _BLOCK :]


def _tar(draw):
    """Returns a tar with samples and all that is none, and for each sample its end and its key."""
    file, ends = io.BytesIO(), []
    with tarfile.open(fileobj=file, mode="w", format=draw.choice(_FORMATS)) as tar:
        for number in range(_SAMPLES):
            key = f"{draw.choice(['', 'shard/', 'a/' * 60])}{number:05}"
            _add(tar, f"{key}.jpg", draw.randbytes(draw.randrange(1, 3000)))
            _add(tar, f"{key}.txt", b"a caption")
            ends.append((tar.offset, key))
            draw.choice(_OTHERS)(tar, number)
    return file.getvalue(), ends


def _add(tar, name, content=b"x", kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
    tar.addfile(info, io.BytesIO(content))


_OTHERS = [
    lambda tar, number: None,
    lambda tar, number: _add(tar, f"{number:05}.json", b"{}"),
    lambda tar, number: _add(tar, f"only{number}.jpg"),
    lambda tar, number: _add(tar, f"only{number}.txt"),
    lambda tar, number: _add(tar, f"._{number}.jpg"),
    lambda tar, number: _add(tar, ".DS_Store"),
    lambda tar, number: _add(tar, "README"),
    lambda tar, number: _add(tar, "00000.jpg"),
    lambda tar, number: _add(tar, f"\udce9{number}.jpg"),
    lambda tar, number: _add(tar, f"line\n{number}.jpg"),
    lambda tar, number: _add(tar, f"folder{number}", kind=tarfile.DIRTYPE),
    lambda tar, number: _add(tar, f"link{number}.jpg", kind=tarfile.SYMTYPE),
    lambda tar, number: _add(tar, f"link{number}.jpg", kind=tarfile.LNKTYPE),
    lambda tar, number: _add(tar, f"pipe{number}.jpg", kind=tarfile.FIFOTYPE),
]


def _faults(kind, word, done, path, content, whole, ends):
    """Yields a line for each promise that the conversion of a tar breaks."""
    if kind == "whole" and done.fault:
        yield f"fault of a sound tar: {done.fault}"
    if kind in ("packed", "foreign") and (not done.fault or word not in done.fault):
        yield f"fault does not say what it is: {done.fault}"
    if not done.fault:
        with tarfile.open(path) as tar:
            members = len(tar.getmembers())
        named = sum(map(len, done.left_out.values()))
        if 2 * done.num_records + named != members:
            yield f"{done.num_records} records and {named} files left out of {members} files"
    same = next((i for i, (a, b) in enumerate(zip(content, whole)) if a != b), len(content))
    wanted = [key for end, key in ends if end <= same] if kind in ("whole", "damaged") else []
    if (keys := _keys(f"{path}.tfrecord"))[: len(wanted)] != wanted:
        yield f"records of {keys} in place of {wanted}"


def _keys(path):
    examples = (
        tf.train.Example.FromString(record)
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator()
    )
    return [
        one.features.feature["key"].bytes_list.value[0].decode("utf-8", "replace")
        for one in examples
    ]
