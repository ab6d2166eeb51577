"""A source of examples that are held in memory: texts, numbers and paths of image files."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data import record_fields, record_heads
from limoe_tf.data.captions import are_blank
from limoe_tf.data.record_headers import FRAME_BYTES
from limoe_tf.data.records import RecordFile
from limoe_tf.downstream.left_out import LeftOut

# Records that stay together while the runs are shuffled: published files list neighbours together.
_RUN = 1024
_NO_CAPTION = "no caption"


class Examples:
    """A list of examples as a source: order, windows, resuming and bad records are as of all files.

    The examples are written once to a TFRecord file, named by a hash of its content, so the same
    list finds the file again. It holds paths of images, not their bytes: they are read when a
    record is parsed. An image file that cannot be read then is a bad record.

    Args:
      examples: dicts that have the same fields. A field is a text, an integer, or a list of one of
        these, and of one kind in all examples. Those named `image` or `..._image` are paths.
      name: used in reports and errors.
      cache_dir: folder of the file, on this machine or in a bucket; None takes one of this user in
        that of temporary files.
      label_names: a name for each label, or None.
      left_out: see `left_out`.

    Attributes:
      left_out: dict from the reason to the number of entries that a reader has left out.
      num_examples: their number.

    Raises:
      ValueError: if there are no examples, they differ in their fields, or a text is not Unicode.
      TypeError: if a field is of another type, or not of one type.
    """

    def __init__(
        self,
        examples: Sequence[Mapping[str, Any]],
        *,
        name: str,
        cache_dir: str | os.PathLike | None = None,
        label_names: Sequence[str] | None = None,
        left_out: Mapping[str, int] | None = None,
    ):
        if not examples:
            raise ValueError(f"`examples` must hold at least one. Received: none of {name}")
        self.name = name
        self.num_examples = len(examples)
        self.left_out = dict(left_out or {})
        self.label_names = None if label_names is None else list(label_names)
        self._spec = _spec(examples)
        self.has_images = "image" in self._spec
        self.has_captions = "captions" in self._spec
        self.has_labels = "labels" in self._spec
        records = [_serialized(one, number) for number, one in enumerate(examples)]
        folder = _cache_dir() if cache_dir is None else checks.plain_path("cache_dir", cache_dir)
        path = _written(records, folder)
        self.files = record_heads.look(list(_runs(path, records)), name=name)

    def parse(self, serialized: tf.Tensor, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Parses one record, and reads its images.

        Args:
          serialized: <string>[] a record of the file.
          seed: not used.

        Returns:
          dict of the fields: encoded images <string>[], texts <string>[] or <string>[n], integers
          <int64>[] or <int64>[n]. `captions` are without blank ones, `captions` and `labels`
          always lists.

        Raises:
          tf.errors.InvalidArgumentError: if it is not a record of the file.
          tf.errors.OpError: if an image file cannot be read.
        """
        del seed
        fields = tf.io.parse_single_example(serialized, self._spec)
        return {name: _value(name, field) for name, field in fields.items()}

    def why_no_caption(self, record: dict[str, tf.Tensor]) -> str:
        """See `TfrecordSource.why_no_caption`."""
        del record
        return _NO_CAPTION


def of_published(
    examples: Sequence[Mapping[str, Any]],
    left_out: LeftOut,
    *,
    cache_dir: str | os.PathLike | None,
    label_names: Sequence[str] | None = None,
) -> Examples:
    """Returns the sound entries of published data, after saying what has been left out.

    Args:
      examples: see `Examples`.
      left_out: LeftOut, whose name is the data's.
      cache_dir: see `Examples`.
      label_names: see `Examples`.

    Raises:
      ValueError: see `LeftOut.finish`.
    """
    left_out.finish(len(examples))
    return Examples(
        examples,
        name=left_out.name,
        cache_dir=cache_dir,
        label_names=label_names,
        left_out=left_out.counts,
    )


def _value(name, field):
    if record_fields.is_image(name):
        return tf.io.read_file(field)
    field = field.values if isinstance(field, tf.SparseTensor) else field
    return tf.boolean_mask(field, ~are_blank(field)) if name == "captions" else field


def _spec(examples):
    """Returns dict from fields to what `tf.io.parse_single_example` takes."""
    kinds = {name: set() for name in examples[0]}
    for number, example in enumerate(examples):
        if example.keys() != kinds.keys():
            raise ValueError(
                f"`examples` must all have the fields {sorted(kinds)}. "
                f"Received: {sorted(example)} in example {number}"
            )
        for name, value in example.items():
            kinds[name].add(_kind(value))
    return {name: _spec_of_field(name, found) for name, found in kinds.items()}


def _kind(value):
    """Returns the type of a value, of a list that of its elements and that it is one."""
    if not isinstance(value, (list, tuple)):
        return type(value).__name__
    types = {type(one).__name__ for one in value}
    return f"list of {' and '.join(sorted(types))}".rstrip()


def _spec_of_field(name, kinds):
    if name in ("captions", "labels"):
        kinds = {kind if kind.startswith("list") else f"list of {kind}" for kind in kinds}
    if kinds <= {"list of", "list of str"}:
        found = tf.io.VarLenFeature(tf.string)
    elif kinds <= {"list of", "list of int"}:
        found = tf.io.VarLenFeature(tf.int64)
    elif len(kinds) == 1 and kinds <= {"str", "int"}:
        found = tf.io.FixedLenFeature([], tf.string if kinds == {"str"} else tf.int64)
    else:
        raise TypeError(
            "A field must be a text, an integer or a list of one of these, and the same in all "
            f"examples. Received: {name!r}, of {', '.join(sorted(kinds))}"
        )
    if record_fields.is_image(name) and kinds != {"str"}:
        raise TypeError(
            "An image must be the path of its file. "
            f"Received: {name!r}, of {', '.join(sorted(kinds))}"
        )
    return found


def _serialized(example, number):
    try:
        features = {name: _feature(value) for name, value in example.items()}
    except UnicodeEncodeError as error:
        raise ValueError(f"A text must be Unicode. Received: example {number}: {error}") from error
    features = tf.train.Features(feature=features)
    # The order of a map's entries is free: without `deterministic` so is the hash.
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


def _feature(value):
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if values and isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    texts = [text.encode("utf-8") for text in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))


def _cache_dir():
    return os.path.join(tempfile.gettempdir(), f"limoe_tf_examples_{os.getuid()}")


def _written(records, folder):
    """Returns the path of a file of these records, which is written as a whole if it is missing."""
    content = hashlib.sha256()
    for record in records:
        content.update(len(record).to_bytes(8, "little") + record)
    path = os.path.join(folder, f"{content.hexdigest()[:32]}.tfrecord")
    if tf.io.gfile.exists(path):
        return path
    tf.io.gfile.makedirs(folder)
    partial = f"{path}.{os.getpid()}.partial"
    with tf.io.TFRecordWriter(partial) as writer:
        for record in records:
            writer.write(record)
    tf.io.gfile.rename(partial, path, overwrite=True)
    return path


def _runs(path, records) -> Iterator[RecordFile]:
    offset = 0
    for first in range(0, len(records), _RUN):
        run = records[first : first + _RUN]
        yield RecordFile(path, first, len(run), mark=first, offset=offset)
        offset += sum(len(record) + FRAME_BYTES for record in run)
