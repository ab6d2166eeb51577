"""What makes a record bad: captions unfit to train on, and the reasons in words."""

import tensorflow as tf
from google.protobuf.message import DecodeError

from limoe_tf.data import images, record_gaps

# Three pages of text. No model reads so much of a caption; it is a web page in the wrong place.
MAX_CAPTION_BYTES = 10_000
_FORMATS = {b"GIF8": " (animated GIF)", b"RIFF": " (WebP)"}
_NO_EXAMPLE = "not a tf.train.Example"
# TensorFlow quotes a record that it refuses, and Python cannot read what is not UTF-8 in the quote.
_REFUSALS = (tf.errors.OpError, UnicodeDecodeError)


def check_captions(record):
    """Returns a record if its captions are sound: there are some, all UTF-8 and none too long.

    Args:
      record: dict with `captions` <string>[n].

    Raises:
      tf.errors.InvalidArgumentError: if they are not.
    """
    # Nothing is changed: it raises what `Vocabulary` would silently turn into question marks.
    read = tf.strings.unicode_transcode(record["captions"], "UTF-8", "UTF-8", errors="strict")
    sizes = tf.strings.length(read)
    sound = (tf.size(sizes) > 0) & tf.reduce_all(sizes <= MAX_CAPTION_BYTES)
    with tf.control_dependencies([tf.debugging.Assert(sound, ["bad captions"])]):
        return {**record, "captions": tf.identity(record["captions"])}


def explain(record, source):
    """Returns what is wrong with a record that cannot be loaded, in some words.

    Bad are gaps in a damaged file; records that are empty, no `tf.train.Example` or without a
    feature that is asked for; without a caption or a label; with a caption that is not UTF-8 or of
    more than `MAX_CAPTION_BYTES`, even if there are others; and images that are empty, of a single
    pixel, cut off, animated, or neither JPEG nor PNG nor GIF nor WebP.

    Sound are JPEGs in CMYK, PNGs of 16 bits a channel, GIFs and WebPs of one frame: they are
    brought to RGB of 8 bits.

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
    except _REFUSALS:
        return _features_fault(record.numpy())
    if source.has_captions and (reason := _caption_fault(parsed, source)):
        return reason
    return _image_fault(parsed["image"])


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
    start = encoded.numpy()[:4]
    if not start:
        return "empty image"
    try:
        images.decode(encoded)
    except _REFUSALS as error:
        if images.SINGLE_PIXEL in str(error):
            return images.SINGLE_PIXEL
        return f"image cannot be decoded{_FORMATS.get(start, '')}"
    return "cannot be loaded"
