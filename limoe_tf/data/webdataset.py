"""Converts WebDataset tars to TFRecords: `key.jpg` and `key.txt` become one record.

Tars are converted rather than read in training: tf.data has no op for them, reading in Python per
example was not shown to be as fast, and a run resumes exactly because it can seek in plain files.
"""

import collections
import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError

from limoe_tf.data.captions import is_blank
from limoe_tf.data.faults import MAX_CAPTION_BYTES
from limoe_tf.data.tars import Tar

_READ_BYTES = 8 << 20


class Converted(NamedTuple):
    """The result of converting a tar.

    Attributes:
      num_records: records written.
      num_bytes: size of the file written.
      fault: why the tar could not be read to its end, or None.
      left_out: dict from a reason to the names in the tar of the files left out for it. Each file
        that could be read is either part of a record or named here.
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

    Samples without a complete image or caption, repeated keys, other files of a sample, and entries
    that are not files of a sample, such as folders and links, are left out, with the reason. Of a
    truncated or damaged tar everything before the damage is converted. What is no tar at all, such
    as a compressed one, has no records and a fault that says what it is.

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
    stat = tf.io.gfile.stat(tar_path)
    with tf.io.TFRecordWriter(partial) as writer:
        if stat.is_directory:
            fault = "folder, no tar"
        else:
            with tf.io.gfile.GFile(tar_path, "rb") as file:
                tar = Tar(file, stat.length)
                for sample in _samples(tar, image, caption, found):
                    expected.add(*sample)
                    writer.write(_example(*sample))
            fault = tar.fault
    _check(partial, expected)
    num_bytes = tf.io.gfile.stat(partial).length
    tf.io.gfile.rename(partial, path, overwrite=True)
    return Converted(expected.count, num_bytes, fault, dict(found.left_out))


class _Findings:
    """What is left out of a tar, by reason."""

    def __init__(self):
        self.left_out = collections.defaultdict(list)

    def leave_out(self, name, reason):
        # A name in a tar may be any bytes, ends of lines among them; tarfile decodes those that are
        # not UTF-8 as surrogates.
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
        self.left_out[reason].append("".join(shown))


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


def _samples(tar, image, caption, found):
    """Yields (key, image, list of captions), all bytes, of the valid samples of a tar."""
    suffix, _, field = caption.partition(":")
    seen = set()
    for key, parts in _groups(tar.members({*image, suffix}, found.leave_out), found):
        used = ()
        try:
            if key in seen:
                whole = suffix in parts and not parts.keys().isdisjoint(image)
                raise ValueError("duplicate key" if whole else "apart from its key's other files")
            seen.add(key)
            used = _part(parts, image, "image"), _part(parts, [suffix], "caption")
            captions = _captions(used[1].content, field)
        except ValueError as error:
            used, reason = (), str(error)
        else:
            reason = "neither the image nor the caption"
            yield key.encode("utf-8", "surrogateescape"), used[0].content, captions
        for part in parts.values():
            if part not in used:
                found.leave_out(part.name, reason)


def _part(parts, suffixes, what):
    found = [suffix for suffix in suffixes if suffix in parts]
    if not found:
        raise ValueError(f"no {what} among {', '.join(sorted(parts))}")
    part = parts[found[0]]
    if part.fault:
        raise ValueError(f"{what} is {part.fault}")
    if not part.content:
        raise ValueError(f"empty {what}")
    return part


def _captions(content, field):
    try:
        text = content.decode("utf-8-sig")
        captions = _of_json(text, field) if field else [text]
        captions = [one.strip().encode("utf-8") for one in captions if not is_blank(one)]
    except UnicodeError as error:  # JSON can contain lone surrogates.
        raise ValueError("caption is not UTF-8") from error
    if not captions:
        raise ValueError("empty caption")
    if max(map(len, captions)) > MAX_CAPTION_BYTES:
        raise ValueError(f"caption of more than {MAX_CAPTION_BYTES} bytes")
    return captions


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


def _groups(members, found):
    """Yields (key, dict of suffix to Member) for each sequence of files that share a key."""
    key, parts = None, {}
    for member in members:
        if parts and member.key != key:
            yield key, parts
            parts = {}
        key = member.key
        if member.suffix in parts:
            found.leave_out(member.name, "duplicate name")
        else:
            parts[member.suffix] = member
    if parts:
        yield key, parts
