"""Fields of records beside images, captions and labels: questions, answers, second images."""

from collections.abc import Mapping

import tensorflow as tf
from google.protobuf.message import DecodeError

from limoe_tf.data.records import Source, raw_records

# Parts of a record that have arguments of their own.
_TAKEN = ("image", "captions", "labels")
# Records that are looked at for the kinds of the fields; some may be damaged or lack values.
_LOOKED_AT = 100
_DTYPES = {"bytes_list": tf.string, "int64_list": tf.int64, "float_list": tf.float32}


def is_image(name: str) -> bool:
    """Returns whether a field of that name holds an encoded image: `image`, or `..._image`."""
    return name == "image" or name.endswith("_image")


def check(fields: Mapping[str, str] | None) -> dict[str, str]:
    """Returns the argument `fields` of a source as a dict; empty for None.

    Raises:
      TypeError: if it is no mapping of texts to texts.
      ValueError: if a name is that of another argument.
    """
    if fields is None:
        return {}
    if not isinstance(fields, Mapping) or not all(
        isinstance(text, str) for item in fields.items() for text in item
    ):
        raise TypeError(
            f"`fields` must be a dict from names to keys of features. Received: fields={fields!r}"
        )
    if taken := [name for name in fields if name in _TAKEN]:
        raise ValueError(
            f"`fields` must have other names than {', '.join(_TAKEN)}, which are arguments of "
            f"their own. Received: {taken[0]!r}"
        )
    return dict(fields)


def find_spec(source: Source, fields: Mapping[str, str]) -> dict[str, tf.io.VarLenFeature]:
    """Finds out from a source's first records of `tf.train.Example` what its fields hold.

    Args:
      source: of TFRecord files.
      fields: dict from the name of a field to the key of its feature.

    Returns:
      dict from keys to what `tf.io.parse_single_example` takes.

    Raises:
      ValueError: if there is no record, or no value of a field in the first records.
    """
    found, there = {}, set()
    records = raw_records(source).take(_LOOKED_AT) if fields else ()
    for _, _, record in records:
        features = _features(record.numpy())
        there |= features.keys()
        kinds = {
            key: features[key].WhichOneof("kind") for key in fields.values() if key in features
        }
        found.update({key: kind for key, kind in kinds.items() if kind is not None})
        if len(found) == len(set(fields.values())):
            break
    if unknown := [key for key in fields.values() if key not in found]:
        raise ValueError(
            f"A field must be a feature of the records of {source.name}. "
            f"Received: {unknown[0]!r}; the first records have {sorted(there)}"
        )
    lists = {key: tf.io.VarLenFeature(_DTYPES[kind]) for key, kind in found.items()}
    images = {key: tf.io.FixedLenFeature([], tf.string) for name, key in fields.items()
              if is_image(name)}  # fmt: skip
    return {**lists, **images}


def _features(record):
    try:
        return dict(tf.train.Example.FromString(record).features.feature)
    except DecodeError:
        return {}
