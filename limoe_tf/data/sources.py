"""Sources of image-text records: TFDS builders or TFRecord files.

A source has a list of files and parses one record of them; order and batches are defined elsewhere.
"""

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_datasets as tfds

from limoe_tf.data import (
    endless,  # noqa: F401 (registers `endless_scenes`)
    grid_classes,  # noqa: F401 (registers `grid_classes`)
    grid_questions,  # noqa: F401 (registers `grid_questions`)
    grid_scenes,  # noqa: F401 (registers `grid_scenes`)
    grid_sentences,  # noqa: F401 (registers `grid_sentences`)
    grid_statements,  # noqa: F401 (registers `grid_statements`)
    icons,  # noqa: F401 (registers `icon_names`)
    many_files,
    record_fields,
    record_heads,
    shapes,  # noqa: F401 (registers `captioned_shapes`)
)
from limoe_tf.data.captions import are_blank
from limoe_tf.data.records import RecordFile

_NO_CAPTION = "no caption"
_NO_EXAMPLE = "not a tf.train.Example"


class TfdsSource:
    """Records of a TensorFlow Datasets builder, which is prepared first if necessary.

    Args:
      name: the builder, such as "captioned_shapes" or "coco_captions"; or the folder of a built
        dataset, such as "gs://bucket/coco_captions/2014/1.1.0", without a registered builder.
      split: a split or a slice of one, such as "train[:10%]".
      image: the feature of the image; keys of nested features are joined by "/". None if there are
        texts only.
      captions: the feature of one or several captions, such as "captions/text"; None if the
        dataset has labels only.
      labels: the feature of one or several class labels, or None.
      fields: more features by the names under which `parse` returns them, such as
        {"question": "question", "other_image": "pair/right"}; of the form that the builder states,
        but images stay encoded.
      data_dir: folder of the prepared datasets; None takes that of TensorFlow Datasets.

    Raises:
      ValueError: if there is no such builder, split or feature, or the files are not TFRecords.
    """

    def __init__(
        self,
        name: str,
        *,
        split: str,
        image: str | None = "image",
        captions: str | None = "captions",
        labels: str | None = None,
        fields: Mapping[str, str] | None = None,
        data_dir: str | None = None,
    ):
        self.name = f"{name}/{split}"
        self.has_images = image is not None
        self.has_captions = captions is not None
        self.has_labels = labels is not None
        builder = _open_builder(name, data_dir)
        self._keys = {"image": image, "captions": captions, "labels": labels}
        self._keys = {part: key for part, key in self._keys.items() if key is not None}
        self._fields = record_fields.check(fields)
        keys = {**self._keys, **self._fields}
        features = {part: _feature(builder, key) for part, key in keys.items()}
        if image is not None and not _is_image(features["image"]):
            raise ValueError(f"`image` must be an image feature of {name}. Received: {image=}")
        _prepare(builder)
        if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
            raise ValueError(
                f"The files of {name} must be TFRecords. Received: {builder.info.file_format}"
            )
        self.files = record_heads.look(_files_of_split(builder, split), name=self.name)
        self.label_names = getattr(features.get("labels"), "names", None)
        read = {key.split("/")[0] for key in keys.values()}
        self._features = tfds.features.FeaturesDict(
            {name: builder.info.features[name] for name in read}
        )
        encoded = [keys[part] for part, one in features.items() if _is_image(one)]
        self._decoders = _nested(encoded, tfds.decode.SkipDecoding())

    def parse(self, serialized: tf.Tensor, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Parses one record; see `TfrecordSource.parse`."""
        del seed
        example = _whole_example(serialized)
        example = self._features.deserialize_example(example, decoders=self._decoders)
        parts = {part: _at(example, key) for part, key in self._keys.items()}
        fields = {name: _at(example, key) for name, key in self._fields.items()}
        return {**_record(**parts), **fields}

    def why_no_caption(self, record: dict[str, tf.Tensor]) -> str:
        """See `TfrecordSource.why_no_caption`."""
        del record
        return _NO_CAPTION


class TfrecordSource:
    """Records of TFRecord files of `tf.train.Example`, as img2dataset writes them.

    Args:
      pattern: path or glob of the files, each with gzip or not. Other files are skipped.
      image: key of the JPEG or PNG bytes; None if the files have texts only.
      captions: key of one or several captions; None if the files have labels only.
      labels: key of one or several integer labels, or None.
      fields: more keys by the names under which `parse` returns them, such as
        {"question": "text", "other_image": "right"}. The first records tell what they hold.

    Raises:
      ValueError: if no file matches, none is a TFRecord, one cannot be read, or a field is in none
        of the first records.
    """

    label_names = None

    def __init__(
        self,
        pattern: str,
        *,
        image: str | None = "jpg",
        captions: str | None = "caption",
        labels: str | None = None,
        fields: Mapping[str, str] | None = None,
    ):
        self.name = pattern
        self.has_images = image is not None
        self.has_captions = captions is not None
        self.has_labels = labels is not None
        files = [RecordFile(path, 0, -1) for path in many_files.matching(pattern)]
        self.files = record_heads.look(files, name=pattern)
        self._keys = {"image": image, "captions": captions, "labels": labels}
        self._spec = {image: tf.io.FixedLenFeature([], tf.string)} if self.has_images else {}
        if self.has_captions:
            self._spec[captions] = tf.io.VarLenFeature(tf.string)
        if self.has_labels:
            self._spec[labels] = tf.io.VarLenFeature(tf.int64)
        self._fields = record_fields.check(fields)
        self._spec = {**record_fields.find_spec(self, self._fields), **self._spec}

    def parse(self, serialized: tf.Tensor, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Parses one record.

        Args:
          serialized: <string>[] a `tf.train.Example`.
          seed: not used; `LabelCaptions` shuffles by it.

        Returns:
          dict of `image` <string>[] encoded image, `captions` <string>[n] without blank ones and
          `labels` <int64>[m], as far as the source has them; and its fields, of which those named
          `..._image` are <string>[], the others <string>[n], <int64>[n] or <float32>[n].

        Raises:
          tf.errors.DataLossError: if it is not a whole `tf.train.Example`.
          tf.errors.InvalidArgumentError: if a feature is missing or has another type.
        """
        del seed
        example = tf.io.parse_single_example(_whole_example(serialized), self._spec)
        parts = {part: example[key] for part, key in self._keys.items() if key}
        fields = {name: _value(example[key]) for name, key in self._fields.items()}
        return {**_record(**parts), **fields}

    def why_no_caption(self, record: dict[str, tf.Tensor]) -> str:
        """Returns the reason why a record that `parse` returned has no caption."""
        del record
        return _NO_CAPTION


def _whole_example(serialized):
    # The parser of examples trusts lengths within them: one of 2 GiB or more, as damage makes them,
    # ends the process. That of protocol buffers does not.
    found = tf.io.decode_proto(
        serialized, "tensorflow.Example", ["features"], [tf.string], sanitize=True
    )
    # Without the assertion the graph optimizer takes the reading for useless, and leaves it out.
    with tf.control_dependencies([tf.debugging.Assert(found.sizes[0] >= 0, [_NO_EXAMPLE])]):
        return tf.identity(serialized)


def _record(image=None, captions=None, labels=None):
    record = {} if image is None else {"image": image}
    if captions is not None:
        captions = _flat(captions)
        record["captions"] = tf.boolean_mask(captions, ~are_blank(captions))
    if labels is not None:
        record["labels"] = tf.cast(_flat(labels), tf.int64)
    return record


def _value(value):
    return value.values if isinstance(value, tf.SparseTensor) else value


def _flat(values):
    if isinstance(values, tf.SparseTensor):
        return values.values
    if isinstance(values, tf.RaggedTensor):
        return values.flat_values
    return tf.reshape(values, [-1])


def _nested(keys, leaf):
    """Returns keys such as "a/b" and "a/c" as nested dicts: {"a": {"b": leaf, "c": leaf}}."""
    tree = {}
    for key in keys:
        *parts, last = key.split("/")
        inside = tree
        for part in parts:
            inside = inside.setdefault(part, {})
        inside[last] = leaf
    return tree


def _at(tree, key):
    for part in key.split("/"):
        tree = tree[part]
    return tree


def _open_builder(name, data_dir):
    info = f"{name.rstrip('/')}/dataset_info.json"
    # TFDS raises an AssertionError if there is no version.
    refusals = tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError
    try:
        if tf.io.gfile.exists(info):
            return tfds.builder_from_directory(name)
        return tfds.builder(name, data_dir=data_dir)
    except (*refusals, OSError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            "`name` must be a TensorFlow Datasets builder or the folder of a built dataset. "
            f"Received: name={name!r}; tried {info} and a builder of that name ({reason})"
        ) from error


def _is_image(feature):
    return isinstance(feature, tfds.features.Image)


def _prepare(builder):
    if builder.is_prepared():
        return
    try:
        builder.download_and_prepare()
    except (AssertionError, ImportError) as error:  # What somebody has to fetch by hand.
        raise ValueError(f"{builder.name} cannot be built: {error}") from error


def _feature(builder, key):
    feature = builder.info.features
    for part in key.split("/"):
        # A sequence of dicts has the keys of its elements, a sequence of single values has none.
        names = feature.keys() if hasattr(feature, "keys") else ()
        if part not in names:
            raise ValueError(
                f"A feature must be one of {builder.name}'s, {sorted(builder.info.features)}, or a "
                f"part of one. Received: {key!r}"
            )
        feature = feature[part]
    return feature.feature if isinstance(feature, tfds.features.Sequence) else feature


def _files_of_split(builder, split):
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be one of {builder.name}'s, {sorted(builder.info.splits)}, or a part "
            f"of one. Received: split={split!r}"
        ) from error
    return [
        RecordFile(str(one.filename), one.skip, one.take, stated=one.examples_in_shard)
        for one in instructions
    ]
