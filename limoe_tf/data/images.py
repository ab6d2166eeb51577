"""Decodes, crops and resizes images: from encoded bytes to uint8 of a fixed size.

Values stay uint8: float32 batches lower the rate by a fifth, and the model rescales on the device.

Training and evaluation resize in the same way, so that a model is tested on images like those it
was trained on: a JPEG is decoded at the smallest scale that is large enough, which averages pixels
at no cost, and the rest is bilinear resizing without antialiasing. `python -m benchmarks --only
input_pipeline` measures what that saves, and the difference from antialiased resizing.
"""

from collections.abc import Sequence

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data import crops
from limoe_tf.data.formats import bmp, gif, jpeg, png, rules, webp
from limoe_tf.data.formats.file_bytes import size_of, text_at

TRAINING_CROPS = ("resize", "random_resized_crop")
EVALUATION_RESIZES = ("resize", "central_crop")
# Of the files that `decode` takes, those of the most frequent formats first.
SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
MAX_PIXELS = rules.MAX_PIXELS
# All but JPEG, of which more is asked.
_OTHERS = (png, gif, webp, bmp)
# Smallest and largest share of an image's area that a random crop takes.
CROP_AREA = (0.08, 1.0)

# Share of each side that a central crop keeps.
_CENTRAL_SHARE = 0.875
_JPEG_END = b"\xff\xd9"
NO_PICTURE = "neither JPEG, PNG, GIF, WebP nor BMP"


def decode(encoded: tf.Tensor, *, size: int | None = None) -> tf.Tensor:
    """Decodes a JPEG, PNG, still GIF, still WebP or BMP image to RGB, as a viewer shows it.

    The orientation in EXIF or XMP data is applied, transparent pixels are composed on white, CMYK
    is converted to RGB, 16 bits per channel to 8. Refused are an image of a single pixel, as web
    pages use for tracking, an image of more than `MAX_PIXELS`, before it is decoded, and what
    TensorFlow cannot decode as viewers do; docs/data.md has the table.

    Args:
      encoded: <string>[] bytes of the file.
      size: a JPEG is decoded at 1/2, 1/4 or 1/8 of its sides, rounded up, if both are then still
        `size` pixels or more. None decodes it in full.

    Returns:
      <uint8>[H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: if the image is refused or not complete.
    """
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: jpeg.decode(encoded, size=size),
        lambda: _for_other(encoded, [one.decode for one in _OTHERS], _no_picture),
    )
    return tf.ensure_shape(image, [None, None, 3])


def refusal(error: tf.errors.OpError) -> str | None:
    """Returns why `decode` has refused an image, from its error; None if a decoder failed."""
    return rules.reason_in(error.message)


def num_pixels(encoded: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[] pixels according to the header of a file; 0 if it is of no known format.

    Args:
      encoded: <string>[] bytes of the file.

    Raises:
      tf.errors.InvalidArgumentError: if the header of a JPEG is damaged.
    """
    none = tf.zeros([2], tf.int64)
    sides = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: jpeg.sides(encoded),
        lambda: _for_other(encoded, [one.sides for one in _OTHERS], lambda _: none),
    )
    return rules.num_pixels(*tf.unstack(sides, 2))


def training_image(
    encoded: tf.Tensor,
    seed: tf.Tensor,
    *,
    size: int,
    crop: str = "resize",
    crop_area: Sequence[float] = CROP_AREA,
    flip: bool = False,
) -> tf.Tensor:
    """Decodes and resizes an image to the size of the model, with optional random crop and flip.

    The result depends on the arguments only.

    Args:
      encoded: <string>[] bytes of a file that `decode` takes.
      seed: <int64>[2] decides the box and the flip.
      size: side of the result, in pixels.
      crop: "resize" uses the whole image; "random_resized_crop" a box of `crop_area`. Both ignore
        the aspect ratio.
      crop_area: smallest and largest share of the image's area that a random crop takes, such as
        big_vision's 0.05 and 1. Where ten boxes of whole pixels miss the range, the image is whole.
      flip: whether half of the images are flipped left to right.

    Returns:
      <uint8>[size, size, 3].
    """
    encoded, seed = map(tf.convert_to_tensor, (encoded, seed))
    return _training_image(encoded, seed, size, crop, tuple(crop_area), flip)


# One graph for all datasets of a process: tracing decoders takes longer than the rest of a dataset.
@tf.function(autograph=False)
def _training_image(encoded, seed, size, crop, crop_area, flip):
    draw_box, flip_seed = _draws(seed, crop, crop_area)
    image = _random_box(encoded, size, draw_box) if draw_box else decode(encoded, size=size)
    return _finished(image, size, flip_seed if flip else None)


def training_size(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    size: int,
    crop: str,
    crop_area: Sequence[float],
    flip: bool,
) -> tf.Tensor:
    """Crops, resizes and flips a decoded image, as `training_image` does that of a PNG.

    Args:
      image: <uint8>[H, W, 3].
      seed: see `training_image`, as all others.

    Returns:
      <uint8>[size, size, 3].
    """
    draw_box, flip_seed = _draws(seed, crop, crop_area)
    image = crops.cut(image, draw_box(tf.shape(image)[:2])) if draw_box else image
    return _finished(image, size, flip_seed if flip else None)


def _draws(seed, crop, crop_area):
    """Returns the function that draws a box for the sides of an image, or None, and a seed."""
    checks.one_of("crop", crop, TRAINING_CROPS)
    area = crops.check_crop_area(crop_area)
    box_seed, flip_seed = tf.unstack(tf.random.split(seed))
    draw_box = None if crop == "resize" else lambda sides: crops.draw_box(sides, box_seed, area)
    return draw_box, flip_seed


def _finished(image, size, flip_seed):
    image = _resized(image, size)
    if flip_seed is None:
        return image
    return tf.image.stateless_random_flip_left_right(image, flip_seed)


def evaluation_image(encoded: tf.Tensor, *, size: int, resize: str = "resize") -> tf.Tensor:
    """Decodes and resizes an image to the size of the model.

    Args:
      encoded: <string>[] bytes of a file that `decode` takes.
      size: side of the result, in pixels.
      resize: "resize" uses the whole image; "central_crop" the central 7/8 of each side.

    Returns:
      <uint8>[size, size, 3].
    """
    return _evaluation_image(tf.convert_to_tensor(encoded), size, resize)


@tf.function(autograph=False)
def _evaluation_image(encoded, size, resize):
    image = decode(encoded, size=_side_before_crop(size, resize))
    return evaluation_size(image, size=size, resize=resize)


def evaluation_size(image: tf.Tensor, *, size: int, resize: str = "resize") -> tf.Tensor:
    """Resizes decoded images to the size of the model, as `evaluation_image` does.

    Args:
      image: <uint8>[..., H, W, 3], one image or several.
      size: side of the result, in pixels.
      resize: see `evaluation_image`.

    Returns:
      <uint8>[..., size, size, 3].
    """
    side = _side_before_crop(size, resize)
    image = _resized(image, side)
    start = (side - size) // 2
    return image[..., start : start + size, start : start + size, :] if side > size else image


def _side_before_crop(size, resize):
    checks.one_of("resize", resize, EVALUATION_RESIZES)
    return size if resize == "resize" else int(size / _CENTRAL_SHARE)


def _resized(image, size):
    image = tf.image.resize(image, (size, size), method="bilinear")
    return tf.cast(tf.round(image), tf.uint8)


def _random_box(encoded, size, draw_box):
    # The fused decoder needs the end marker of a JPEG, so that it never runs out of data.
    end = tf.maximum(size_of(encoded) - len(_JPEG_END), 0)
    ends_well = text_at(encoded, end, len(_JPEG_END)) == _JPEG_END

    def decode_then_crop():
        image = decode(encoded)
        return crops.cut(image, draw_box(tf.shape(image)[:2]))

    return tf.cond(
        tf.io.is_jpeg(encoded) & ends_well,
        lambda: jpeg.decode_box(encoded, draw_box, size=size),
        decode_then_crop,
    )


def _for_other(encoded, functions, otherwise):
    """Calls the function of the file's format, in the order of `_OTHERS`."""
    patterns = (b"GIF8[79]a", rb"RIFF\C{4}WEBP", b"BM")
    start = tf.strings.substr(encoded, 0, 12)
    is_format = [tf.strings.substr(start, 0, len(png.SIGNATURE)) == png.SIGNATURE]
    is_format += [tf.strings.regex_full_match(start, one + rb"\C*") for one in patterns]
    branches = [lambda one=one: one(encoded) for one in (*functions, otherwise)]
    return tf.switch_case(tf.argmax([*is_format, True], output_type=tf.int32), branches)


def _no_picture(encoded):
    return rules.require(tf.zeros([0, 0, 3], tf.uint8), tf.strings.length(encoded) < 0, NO_PICTURE)
