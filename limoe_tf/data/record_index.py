"""An index of files of records: the number of records of each, and their offsets in the file."""

import concurrent.futures
import io
import os
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from limoe_tf.data import lines, many_files, record_gaps, record_headers, records
from limoe_tf.data.record_headers import FRAME_BYTES, HEADER, HEADER_BYTES
from limoe_tf.data.record_heads import open_unbuffered
from limoe_tf.data.records import RecordFile, Source

MARK_EVERY = 64
_FILE_THREADS = 16
# What a damaged file of NumPy's arrays raises: by its contents or by its form, that of a zip file.
_UNREADABLE = (
    *(EOFError, KeyError, NotImplementedError, RuntimeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)


class FileIndex(NamedTuple):
    """The index of one file.

    Attributes:
      stamp: (bytes, nanoseconds of the last change), which detects a changed file.
      count: number of records; a gap in a damaged file counts as one.
      marks: <int64>[M] byte offset of every `MARK_EVERY`-th record; of a compressed file only the
        first.
    """

    stamp: tuple[int, int]
    count: int
    marks: np.ndarray


class RecordIndex:
    """The offsets of the records of some sources, so that reading can start at any of them.

    A file is indexed when it is first used, and again if it has changed since. Indexing reads the
    headers, 12 bytes of each record; a text, a compressed or damaged file is read in full, and so
    are, in effect, files in a bucket.

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
          ValueError: if there is no record, or a file has changed since the source was made.
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
        there += there < file.stated  # What is lacking is a gap.
        count = max(there - file.first, 0)
        return self.marked(file._replace(count=count if file.count < 0 else min(count, file.count)))

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
            files = {file.path: file for file in source.files}
            self._known.update(
                many_files.for_each(
                    new,
                    lambda path: _index(path, stamps[path], files[path]),
                    done="Indexed",
                    of=source.name,
                )
            )
            if self._path:
                _save(self._path, {**self._kept, **self._known})


def _stamp(path):
    found = tf.io.gfile.stat(path)
    return found.length, found.mtime_nsec


def _index(path, stamp, file):
    file = file._replace(first=0, count=-1, mark=0, offset=0, stated=-1)
    if file.compression:
        count = _dataset(file).reduce(np.int64(0), lambda count, *_: count + 1)
        return FileIndex(stamp, int(count), np.zeros(1, np.int64))
    if stamp[0] != file.size:
        raise ValueError(
            f"A file of records must stay as it is while it is used. Received: {path}, "
            f"{file.size:,} bytes before and {stamp[0]:,} now"
        )
    if file.of_lines:
        return FileIndex(stamp, *_count_lines(file))
    with open_unbuffered(path) as opened:
        count, marks, is_whole = _hop(opened, file.size)
    if not is_whole:
        count, marks = _read_through(file)
    return FileIndex(stamp, count, np.array(marks, np.int64))


def _count_lines(file):
    """Returns the number of lines, and the marks."""
    marks, count = [np.zeros(0, np.int64)], 0
    for begins in lines.begins(file.path, size=file.size).as_numpy_iterator():
        marks.append(begins[-count % MARK_EVERY :: MARK_EVERY])
        count += len(begins)
    return count, np.concatenate(marks)


def _hop(file, size):
    """Reads the header of each record of an open file.

    Returns:
      The number of records, the marks, and whether all headers are sound. If they are, gaps are
      records with a wrong checksum, each a record by itself.
    """
    headers, marks, place, number = bytearray(), [], 0, 0
    while place + HEADER_BYTES <= size:
        if number % MARK_EVERY == 0:
            marks.append(place)
        file.seek(place)
        header = file.read(HEADER_BYTES)
        headers += header
        place += FRAME_BYTES + int.from_bytes(header[:8], "little")
        number += 1
    headers = np.frombuffer(headers[: len(headers) // HEADER_BYTES * HEADER_BYTES], HEADER)
    return number, marks, place == size and bool(record_headers.are_sound(headers).all())


def _read_through(file):
    """Reads a damaged file; returns the number of records and gaps, and the marks."""
    marks, place, count = [], 0, 0
    for _, number, record in _dataset(file).as_numpy_iterator():
        if number % MARK_EVERY == 0:
            marks.append(place)
        gap = record_gaps.read_gap(record)
        place = gap.end if gap else place + FRAME_BYTES + len(record)
        count += 1
    return count, marks


def _dataset(file):
    return records.read_group(records.stacked([file]))


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
