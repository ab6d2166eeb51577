"""A look at the head of each file before anything is read: what it is, and how large."""

import os
import zlib
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import tensorflow as tf

from limoe_tf.data import file_kinds, many_files, record_headers
from limoe_tf.data.record_headers import HEADER, HEADER_BYTES
from limoe_tf.data.records import RecordFile

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_SIZE_BYTES = 4
_GZIP_HEAD_BYTES = 64 * 1024
# zlib's number for data with the header of a gzip file.
_GZIP_WINDOW = 31
# How far into a file that begins otherwise a record is searched for.
_SEARCHED_BYTES = 16 << 20
_PATHS_SHOWN = 3
_EMPTY = "empty"


class Head(NamedTuple):
    """What is seen of a file: its `size` and `compression` as in RecordFile, and its fault if any.

    Attributes:
      fault: why it holds no records, in some words.
    """

    size: int
    compression: str
    fault: str | None


def look(files: Sequence[RecordFile], *, name: str) -> list[RecordFile]:
    """Looks at the head of each file, and leaves out those that are no TFRecords.

    What is left out, and what is empty, is printed with the reason. Plain and gzip files may be
    mixed. A file whose first record is damaged is a TFRecord if there is a record further on.

    Args:
      files: list of RecordFile.
      name: of the source, for messages.

    Returns:
      List of RecordFile, with `size` and `compression` set.

    Raises:
      ValueError: if a file cannot be read, or none is a TFRecord.
    """
    return _looked_at(files, name, _head_of_records, "TFRecords")


def look_at_texts(files: Sequence[RecordFile], *, name: str) -> list[RecordFile]:
    """Looks at the head of each file as `look` does, and leaves out those that are no plain texts.

    Args:
      files: list of RecordFile.
      name: of the source, for messages.

    Returns:
      List of RecordFile, with `size` set.

    Raises:
      ValueError: if a file cannot be read, or none is a text.
    """
    return _looked_at(files, name, _head_of_text, "plain texts")


def _looked_at(files, name, head_of_file, kind):
    paths = sorted({file.path for file in files})
    heads = many_files.for_each(
        paths, lambda path: _head(path, head_of_file), done="Looked at", of=name
    )
    faults = {path: head.fault for path, head in heads.items() if head.fault}
    foreign = {path: fault for path, fault in faults.items() if fault != _EMPTY}
    if len(foreign) == len(paths):
        raise ValueError(f"The files of {name} must be {kind}. Received: {_listed(foreign)}")
    if foreign:
        print(f"Left out of {name}, no {kind}: {_listed(foreign)}", flush=True)
    if empty := {path: fault for path, fault in faults.items() if fault == _EMPTY}:
        print(f"Without a record in {name}: {_listed(empty)}", flush=True)
    kept = [file for file in files if file.path not in foreign]
    heads = [heads[file.path] for file in kept]
    return [
        file._replace(size=head.size, compression=head.compression)
        for file, head in zip(kept, heads)
    ]


def open_unbuffered(path: str) -> BinaryIO | tf.io.gfile.GFile:
    """Opens a file for reading; a local one is read where it is asked to be, and nowhere else."""
    return tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb", buffering=0)


def _listed(faults):
    listed = []
    for fault in sorted(set(faults.values())):
        paths = [path for path, one in faults.items() if one == fault]
        more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
        listed.append(f"{', '.join(paths[:_PATHS_SHOWN])}{more} ({fault})")
    return "; ".join(listed)


def _head(path, head_of_file):
    try:
        found = tf.io.gfile.stat(path)
        if found.is_directory:
            return Head(0, "", "folder")
        if not found.length:
            return Head(0, "", _EMPTY)
        return head_of_file(path, found.length)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or error.strerror
        raise ValueError(
            f"A file of records must be readable. Received: {path} ({reason})"
        ) from error


def _head_of_text(path, size):
    with open_unbuffered(path) as file:
        start = file.read(file_kinds.HEAD_BYTES)
    if _is_header(start[:HEADER_BYTES]):
        return Head(size, "", "TFRecords")
    # A text of another kind may be what is wanted; what is no text in parts has bad lines.
    kind = file_kinds.kind_of(start)
    return Head(size, "", None if kind in (None, *file_kinds.TEXTS) else kind)


def _head_of_records(path, size):
    with open_unbuffered(path) as file:
        start = file.read(HEADER_BYTES)
        if _is_header(start):
            return Head(size, "", None)
        if start.startswith(_GZIP_MAGIC):
            return _head_of_gzip(start + file.read(_GZIP_HEAD_BYTES), file, size)
        start += file.read(file_kinds.HEAD_BYTES)
    if kind := file_kinds.kind_of(start):
        return Head(size, "", kind)
    begin = record_headers.find(path, 0, size, within=_SEARCHED_BYTES)
    return Head(size, "", None if begin < size else "unknown kind")


def _head_of_gzip(start, file, size):
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        inside = unpacker.decompress(start, HEADER_BYTES)
    except zlib.error:
        return Head(0, "GZIP", "damaged gzip")
    if unpacker.eof and not inside:
        return Head(0, "GZIP", _EMPTY)
    if not _is_header(inside):
        return Head(0, "GZIP", "gzip, but not of TFRecords")
    file.seek(max(size - _GZIP_SIZE_BYTES, 0), os.SEEK_SET)
    return Head(int.from_bytes(file.read(_GZIP_SIZE_BYTES), "little"), "GZIP", None)


def _is_header(start):
    return len(start) == HEADER_BYTES and bool(
        record_headers.are_sound(np.frombuffer(start, HEADER))[0]
    )
