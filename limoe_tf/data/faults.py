"""What makes a record bad: checks of captions, and explanations of errors."""

import re

import tensorflow as tf
from google.protobuf.message import DecodeError

from limoe_tf.data import images, record_fields, record_gaps
from limoe_tf.data.records import Source

# Three pages of text: far more than a model reads of a caption, and probably a web page.
MAX_CAPTION_BYTES = 10_000
_NO_EXAMPLE = "not a tf.train.Example"
# TensorFlow quotes a record that it refuses, and Python cannot read what is not UTF-8 in the quote.
_REFUSALS = (tf.errors.OpError, UnicodeDecodeError)
# How files of some formats begin, those that are decoded and those that are not.
_BEGINNINGS = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"GIF8", "GIF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"BM", "BMP"),
    (rb"II\*\x00|MM\x00\*", "TIFF"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftyp(hei|mif|msf)", "HEIC"),
    (rb"\xff\x0a|....JXL ", "JPEG XL"),
    (rb"....jP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\x00\x00\x01\x00", "ICO"),
    (rb"\s*(<\?xml|<svg)", "SVG"),
    (rb"\s*<(!doctype|html)", "HTML"),
)


def check_captions(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns a record if its captions are valid: there is one, all are UTF-8 and none is too long.

    Args:
      record: dict with `captions` <string>[n].

    Raises:
      tf.errors.InvalidArgumentError: if they are not.
    """
    # Nothing is changed: raises for bytes that `Vocabulary` would silently replace.
    read = tf.strings.unicode_transcode(record["captions"], "UTF-8", "UTF-8", errors="strict")
    sizes = tf.strings.length(read)
    valid = (tf.size(sizes) > 0) & tf.reduce_all(sizes <= MAX_CAPTION_BYTES)
    with tf.control_dependencies([tf.debugging.Assert(valid, ["bad captions"])]):
        return {**record, "captions": tf.identity(record["captions"])}


def explain(record: tf.Tensor, source: Source) -> str:
    """Returns a short description of what is wrong with a record that cannot be loaded.

    A record is bad if it is a gap in a damaged file; if it is empty, not a `tf.train.Example` or
    lacks a required feature; if it has no caption or no label; if any of its captions is not UTF-8
    or longer than `MAX_CAPTION_BYTES`; and if an image of it is empty, in a file that cannot be
    read, or `images.decode` refuses it.

    Args:
      record: <string>[] eager tensor.
      source: the source of the record.
    """
    if not record.numpy():
        return "empty record"
    if gap := record_gaps.read_gap(record.numpy()):
        return gap.reason
    try:
        parsed = source.parse(record)
    except tf.errors.DataLossError:
        return _NO_EXAMPLE
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
        return _features_fault(record.numpy())
    except tf.errors.OpError as error:  # Of a file that the record names.
        return f"image file cannot be read ({_without_traces(error.message)})"
    if source.has_captions and (reason := _caption_fault(parsed, source)):
        return reason
    faults = (_image_fault(parsed[name]) for name in parsed if record_fields.is_image(name))
    return next((fault for fault in faults if fault), "cannot be loaded")


def _without_traces(message):
    """Returns what TensorFlow says of an error without the names of its own functions."""
    return re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*", "", message.splitlines()[0])


def _features_fault(record):
    try:
        keys = sorted(tf.train.Example.FromString(record).features.feature)
    except DecodeError:
        return _NO_EXAMPLE
    # A damaged key may hold anything, ends of lines among it.
    listed = repr(", ".join(keys)[:100])[1:-1]
    return f"feature missing or of another type, there are [{listed}]"


def _caption_fault(parsed, source):
    captions = parsed["captions"].numpy()
    if not len(captions):
        return source.why_no_caption(parsed)
    if max(map(len, captions)) > MAX_CAPTION_BYTES:
        return f"caption of more than {MAX_CAPTION_BYTES} bytes"
    try:
        b" ".join(captions).decode("utf-8")
    except UnicodeDecodeError:
        return "caption is not UTF-8"
    return None


def _image_fault(encoded):
    """Returns what is wrong with an image, or None; in a graph it was refused without words."""
    start = encoded.numpy()[:64]
    if not start:
        return "empty image"
    try:
        images.decode(encoded, size=1)  # A JPEG as small as can be.
    except _REFUSALS as error:
        reason = images.refusal(error)
        if reason is None or reason == images.NO_PICTURE:
            reason = _format_of(start) or reason or "damaged"
        return reason if reason.startswith("image") else f"image cannot be decoded ({reason})"
    return None


def _format_of(start):
    for beginning, name in _BEGINNINGS:
        if re.match(beginning, start, re.DOTALL | re.IGNORECASE):
            return name
    return None
