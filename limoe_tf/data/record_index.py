"""An index of TFRecord files: the number of records of each, and their offsets in the file."""

import concurrent.futures
import io
import os
import time
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from limoe_tf.data.records import RecordFile, Source

MARK_EVERY = 64
_FILE_THREADS = 16
_SECONDS_BETWEEN_LINES = 5
# Each record is preceded by its length and a checksum of it, and followed by one of its bytes.
_HEADER = np.dtype([("length", "<u8"), ("checksum", "<u4")])
_FRAME_BYTES = _HEADER.itemsize + 4
# What a damaged file of NumPy's arrays raises: by its contents or by its form, that of a zip file.
_UNREADABLE = (
    *(EOFError, KeyError, NotImplementedError, RuntimeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)


class FileIndex(NamedTuple):
    """The index of one file.

    Attributes:
      stamp: (bytes, nanoseconds of the last change), which detects a changed file.
      count: number of records.
      marks: <int64>[M] byte offset of every `MARK_EVERY`-th record; of a compressed file only the
        first.
    """

    stamp: tuple[int, int]
    count: int
    marks: np.ndarray


class RecordIndex:
    """The offsets of the records of some sources, so that reading can start at any of them.

    A file is indexed when it is first used, and again if it has changed since. Indexing reads the
    headers, 12 bytes of each record; a compressed file is read in full, and so are, in effect,
    files in a bucket.

    Args:
      path: file in which the index is stored between runs; None keeps it in memory only.
    """

    def __init__(self, path: str | None = None):
        self._path = path
        self._kept = None
        self._known = {}

    def runs(self, source: Source) -> list[RecordFile]:
        """Returns the source's files as a list of RecordFile, each with its count and its mark.

        Raises:
          ValueError: if there is no record, a file has too few, or one is damaged.
        """
        if new := sorted({file.path for file in source.files} - self._known.keys()):
            self._look_up(new, source)
        runs = [self._counted(file) for file in source.files]
        if not any(run.count for run in runs):
            raise ValueError(
                f"A source must hold at least one record. Received: {source.name}, empty"
            )
        return runs

    def marked(self, run: RecordFile) -> RecordFile:
        """Returns a run with the last mark that is not after its first record."""
        if run.count == 0:
            return run
        marks = self._known[run.path].marks
        number = min(run.first // MARK_EVERY, len(marks) - 1)
        return run._replace(mark=number * MARK_EVERY, offset=int(marks[number]))

    def _counted(self, file):
        there = self._known[file.path].count
        count = there - file.first if file.count < 0 else file.count
        if file.first + count > there:
            raise ValueError(
                f"{file.path} must hold {file.first + count} records, as its dataset declares. "
                f"Received: {there}"
            )
        return self.marked(file._replace(count=count))

    def _look_up(self, paths, source):
        if self._kept is None:
            self._kept = _load(self._path)
        with concurrent.futures.ThreadPoolExecutor(_FILE_THREADS) as pool:
            stamps = dict(zip(paths, pool.map(_stamp, paths)))
        kept = {path: self._kept[path] for path in paths if path in self._kept}
        same = {path: one for path, one in kept.items() if one.stamp == stamps[path]}
        if len(kept) > len(same):
            print(
                f"{len(kept) - len(same)} files of {source.name} have changed since they were "
                "indexed: the order of its records changes.",
                flush=True,
            )
        self._known.update(same)
        if new := [path for path in paths if path not in same]:
            self._known.update(_indexed(new, stamps, source))
            if self._path:
                _save(self._path, {**self._kept, **self._known})


def _stamp(path):
    found = tf.io.gfile.stat(path)
    return found.length, found.mtime_nsec


def _indexed(paths, stamps, source):
    """Returns a dict from path to FileIndex; prints the progress every few seconds."""

    def index(path):
        return _index(path, stamps[path], source)

    start = printed = time.monotonic()
    found = {}
    with concurrent.futures.ThreadPoolExecutor(_FILE_THREADS) as pool:
        for path, one in zip(paths, pool.map(index, paths)):
            found[path] = one
            if (now := time.monotonic()) - printed > _SECONDS_BETWEEN_LINES:
                printed = now
                rate = len(found) / (now - start)
                left = (len(paths) - len(found)) / rate
                print(
                    f"Indexed {len(found):,} of {len(paths):,} files of {source.name}: "
                    f"{rate:.1f} files/s, {left // 60:.0f}:{left % 60:02.0f} left",
                    flush=True,
                )
    return found


def _index(path, stamp, source):
    if source.compression:
        return FileIndex(stamp, _count_compressed(path, source), np.zeros(1, np.int64))
    length = stamp[0]
    # Without buffering, only the headers of a local file are read.
    remote = "://" in path
    with tf.io.gfile.GFile(path, "rb") if remote else open(path, "rb", buffering=0) as file:
        headers, marks, end = _hop(file, length)
    headers = np.frombuffer(headers[: len(headers) // 12 * 12], _HEADER)
    wrong = np.flatnonzero(_checksums(headers["length"]) != headers["checksum"])
    if len(wrong) or end != length:
        number = wrong[0] if len(wrong) else len(headers) - 1
        raise ValueError(
            f"The files of {source.name} must be TFRecords. "
            f"Received: {path}, corrupted record {number}"
        )
    return FileIndex(stamp, len(headers), np.array(marks, np.int64))


def _hop(file, length):
    """Reads the header of each record of an open file; returns headers, marks and end offset."""
    headers, marks, place, number = bytearray(), [], 0, 0
    while place < length:
        if number % MARK_EVERY == 0:
            marks.append(place)
        file.seek(place)
        header = file.read(_HEADER.itemsize)
        headers += header
        place += _FRAME_BYTES + int.from_bytes(header[:8], "little")
        number += 1
    return headers, marks, place


def _count_compressed(path, source):
    dataset = tf.data.TFRecordDataset(path, source.compression)
    try:
        return int(dataset.reduce(np.int64(0), lambda count, _: count + 1))
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
        raise ValueError(
            f"The files of {source.name} must be TFRecords. Received: {path}, {error.message}"
        ) from error


def _checksums(lengths):
    """Returns the checksums <uint32>[n] of lengths <uint64>[n].

    Reference: CRC-32C, RFC 3720 appendix B.4; rotated and shifted as TensorFlow's record files are.
    """
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ 0x82F63B78, table >> 1).astype(np.uint32)
    crc = np.full(len(lengths), 0xFFFFFFFF, np.uint32)
    for byte in lengths.astype("<u8").view(np.uint8).reshape(-1, 8).T:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    return (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)


def _load(path):
    if path is None or not tf.io.gfile.exists(path):
        return {}
    with tf.io.gfile.GFile(path, "rb") as file:
        content = io.BytesIO(file.read())
    try:
        kept = dict(np.load(content))
        marks = np.split(kept["marks"], np.cumsum(kept["num_marks"])[:-1])
        names = [name.decode() for name in kept["paths"]]
        values = list(zip(names, kept["stamps"].tolist(), kept["counts"].tolist(), marks))
    except _UNREADABLE as error:
        raise ValueError(
            f"A record index must be as it was written; delete it to rebuild it. Received: {path}"
        ) from error
    return {name: FileIndex(tuple(stamp), count, one) for name, stamp, count, one in values}


def _save(path, files):
    """Writes an index atomically: at any time the file is the old or the new one."""
    content = io.BytesIO()
    np.savez(
        content,
        paths=np.array([name.encode() for name in files]),
        stamps=np.array([one.stamp for one in files.values()], np.int64),
        counts=np.array([one.count for one in files.values()], np.int64),
        num_marks=np.array([len(one.marks) for one in files.values()], np.int64),
        marks=np.concatenate([one.marks for one in files.values()]),
    )
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    with tf.io.gfile.GFile(f"{path}.new", "wb") as file:
        file.write(content.getvalue())
    tf.io.gfile.rename(f"{path}.new", path, overwrite=True)
