"""Converts WebDataset tars to TFRecords: `key.jpg` and `key.txt` become one record.

Tars are converted rather than read in training: tf.data has no op for them, reading in Python per
example was not shown to be as fast, and a run resumes exactly because it can seek in plain files.
"""

import collections
import hashlib
import json
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError

_BLOCK_BYTES = 512
_READ_BYTES = 8 << 20


class Converted(NamedTuple):
    """The result of converting a tar.

    Attributes:
      num_records: records written.
      num_bytes: size of the file written.
      fault: why the tar could not be read to its end, or None.
      left_out: dict from a reason to the keys, or names in the tar, left out for it.
    """

    num_records: int
    num_bytes: int
    fault: str | None
    left_out: dict[str, list[str]]


def convert(tar_path: str, path: str, *, image: Sequence[str], caption: str) -> Converted:
    """Writes the samples of a WebDataset tar as a TFRecord file, and checks what was written.

    A sample is a run of files that share a key: their path up to the first dot of the file's name.
    It becomes a `tf.train.Example` of `jpg`, the unchanged bytes of the image, `caption`, one or
    several stripped of white space, and `key`. The same tar gives the same bytes. The file gets its
    final name after it has been read back and compared with the content of the tar.

    Samples without a complete image or caption, repeated keys, and entries that are not files of a
    sample, such as folders and links, are left out, with the reason. Of a truncated or damaged tar
    everything before the damage is converted.

    Args:
      tar_path: the tar, not compressed, on this machine or in a bucket (`gs://`).
      path: the file to write. It is replaced if it exists.
      image: suffixes of images, such as ["jpg", "png"]; the first that a sample has is used.
      caption: suffix of the caption, "txt", or suffix and key in the JSON object, "json:caption",
        of one caption or a list of them.

    Returns:
      Converted.

    Raises:
      tf.errors.OpError: if the tar cannot be opened or the file cannot be written.
      ValueError: if the file read back differs from the content of the tar.
    """
    partial = f"{path}.partial"
    found, expected = _Findings(), _Fingerprint()
    with tf.io.gfile.GFile(tar_path, "rb") as file, tf.io.TFRecordWriter(partial) as writer:
        for sample in _samples(file, image, caption, found):
            expected.add(*sample)
            writer.write(_example(*sample))
    _check(partial, expected)
    num_bytes = tf.io.gfile.stat(partial).length
    tf.io.gfile.rename(partial, path, overwrite=True)
    return Converted(expected.count, num_bytes, found.fault, dict(found.left_out))


class _Findings:
    """The problems found in a tar while it is read."""

    def __init__(self):
        self.fault = None
        self.left_out = collections.defaultdict(list)

    def leave_out(self, name, reason):
        # A name in a tar may be any bytes; tarfile decodes invalid ones as surrogates.
        self.left_out[reason].append(name.encode("utf-8", "backslashreplace").decode())


class _Fingerprint:
    """Number and hash of samples: key, image and captions, all bytes."""

    def __init__(self):
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, key, image, captions):
        self.count += 1
        for part in (key, image, *captions):
            self._hash.update(len(part).to_bytes(8, "little") + part)

    def __str__(self):
        return f"{self.count} samples of hash {self._hash.hexdigest()}"


def _example(key, image, captions):
    values = {"key": [key], "jpg": [image], "caption": captions}
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        for name, value in values.items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _check(path, expected):
    read = _Fingerprint()
    try:
        for record in tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            key, image, captions = (
                features[name].bytes_list.value for name in ("key", "jpg", "caption")
            )
            read.add(b"".join(key), b"".join(image), captions)
    except (tf.errors.DataLossError, DecodeError) as error:
        raise ValueError(f"{path} must hold what was written. Received: {error}") from error
    if str(read) != str(expected):
        raise ValueError(f"{path} must hold {expected}. Received: {read}")


def _samples(file, image, caption, found):
    """Yields (key, image, list of captions), all bytes, of the valid samples of a tar."""
    suffix, _, field = caption.partition(":")
    seen = set()
    for key, parts in _groups(_members(file, {*image, suffix}, found)):
        try:
            if key in seen:
                whole = suffix in parts and not parts.keys().isdisjoint(image)
                raise ValueError("duplicate key" if whole else "apart from its key's other files")
            seen.add(key)
            sample = _part(parts, image, "image"), _captions(parts, suffix, field)
        except ValueError as error:
            found.leave_out(key, str(error))
        else:
            yield key.encode("utf-8", "surrogateescape"), *sample


def _part(parts, suffixes, what):
    found = [suffix for suffix in suffixes if suffix in parts]
    if not found:
        raise ValueError(f"no {what} among {', '.join(sorted(parts))}")
    if parts[found[0]] is None:
        raise ValueError(f"{what} is cut off")
    if not parts[found[0]]:
        raise ValueError(f"empty {what}")
    return parts[found[0]]


def _captions(parts, suffix, field):
    try:
        text = _part(parts, [suffix], "caption").decode("utf-8-sig")
        captions = _of_json(text, field) if field else [text]
        captions = [caption.strip().encode("utf-8") for caption in captions]
    except UnicodeError as error:  # JSON can contain lone surrogates.
        raise ValueError("caption is not UTF-8") from error
    if not any(captions):
        raise ValueError("empty caption")
    return list(filter(None, captions))


def _of_json(text, field):
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("JSON cannot be parsed") from error
    if not isinstance(values, dict) or field not in values:
        raise ValueError(f"JSON without {field!r}")
    captions = values[field] if isinstance(values[field], list) else [values[field]]
    if not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{field!r} in JSON is neither text nor a list of texts")
    return captions


def _groups(members):
    """Yields (key, dict of suffix to bytes) for each sequence of files that share a key."""
    key, parts = None, {}
    for next_key, suffix, data in members:
        if parts and (next_key != key or suffix in parts):
            yield key, parts
            parts = {}
        key, parts[suffix] = next_key, data
    if parts:
        yield key, parts


def _members(file, suffixes, found):
    """Yields (key, suffix, bytes) of the files of a tar.

    The bytes are None if the file is truncated; only files with the given suffixes are read.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if not member.isreg():
                    found.leave_out(member.name, _kind(member))
                elif not (stem and suffix):
                    found.leave_out(member.name, "name without a key and a suffix")
                else:
                    suffix = suffix.lower()
                    data = _content(tar, member) if suffix in suffixes else b""
                    yield f"{folder}{slash}{stem}", suffix, data
            _check_end(file, tar.offset)
    # The second is raised when tarfile seeks beyond the end of the file.
    except (tarfile.TarError, tf.errors.OutOfRangeError) as error:
        found.fault = str(error)


def _kind(member):
    if member.isdir():
        return "folder"
    return "link" if member.issym() or member.islnk() else "neither file, folder nor link"


def _content(tar, member):
    try:
        return tar.extractfile(member).read()
    except tarfile.ReadError:
        return None


def _check_end(file, offset):
    """Raises a ReadError if tarfile stopped before the end: it ignores damaged headers."""
    file.seek(offset)
    if any(block := file.read(_BLOCK_BYTES)) or len(block) < _BLOCK_BYTES:
        raise tarfile.ReadError(f"cut off, or damaged header, at byte {offset:,}")
    while rest := file.read(_READ_BYTES):
        if rest.count(0) != len(rest):
            raise tarfile.ReadError(f"more data after the end mark at byte {offset:,}")
