"""One encoded image in, one uint8 image of a fixed size out: decoding, resizing, cropping.

Values stay uint8: a float32 batch costs a fifth of the rate, and the model rescales on the device.

Training and evaluation resize alike, so that a model is tested on what it has learned to see: a
JPEG is decoded at the smallest scale that is large enough, which averages pixels at no cost, and
what remains is bilinear, without antialiasing. `python -m benchmarks --only input_pipeline`
measures what that saves, and how far the result is from the antialiased one.
"""

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data.formats import bmp, gif, jpeg, png, rules, webp
from limoe_tf.data.formats.file_bytes import size_of, text_at

TRAINING_CROPS = ("resize", "random_resized_crop")
EVALUATION_RESIZES = ("resize", "central_crop")
# Of the files that `decode` takes, those of the most frequent formats first.
SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
MAX_PIXELS = rules.MAX_PIXELS
# All but JPEG, of which more is asked.
_OTHERS = (png, gif, webp, bmp)

# Share of each side that a central crop keeps.
_CENTRAL_SHARE = 0.875
_JPEG_END = b"\xff\xd9"
NO_PICTURE = "neither JPEG, PNG, GIF, WebP nor BMP"


def decode(encoded, *, size=None):
    """Decodes a JPEG, PNG, still GIF, still WebP or BMP image to RGB, as a viewer shows it.

    An orientation that EXIF or XMP data state is followed, what is transparent is white, inks
    become RGB, 16 bits a channel become 8. Refused are images of a single pixel, with which web
    pages count their readers, those of more than `MAX_PIXELS`, before they are decoded, and what
    cannot be decoded as viewers do. docs/data.md has the table.

    Args:
      encoded: <string>[] bytes of the file.
      size: a JPEG is decoded at 1/2, 1/4 or 1/8 of its sides, rounded up, if both are then still
        `size` pixels or more. None decodes it in full.

    Returns:
      <uint8>[H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: if the image is refused, or the bytes are no whole image.
    """
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: jpeg.decode(encoded, size=size),
        lambda: _for_other(encoded, [one.decode for one in _OTHERS], _no_picture),
    )


def refusal(error):
    """Returns why `decode` refuses an image, of its tf.errors.OpError; None if it is damaged."""
    return rules.reason_in(error.message)


def num_pixels(encoded):
    """Returns <int64>[] pixels that the head of a file claims; 0 if it is no image of ours.

    Args:
      encoded: <string>[] bytes of the file.

    Raises:
      tf.errors.InvalidArgumentError: if the head of a JPEG is damaged.
    """
    height_width = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.stack(jpeg.sides(encoded)),
        lambda: _for_other(
            encoded,
            [lambda file, one=one: tf.stack(one.sides(file)) for one in _OTHERS],
            lambda _: tf.zeros([2], tf.int64),
        ),
    )
    return rules.num_pixels(*tf.unstack(height_width))


def training_image(encoded, seed, *, size, crop="resize", flip=False):
    """Decodes an image and brings it to the size of the model, with random changes if asked for.

    The result depends on nothing but the arguments.

    Args:
      encoded: <string>[] bytes of a file that `decode` takes.
      seed: <int64>[2] decides the box and the flip.
      size: side of the result, in pixels.
      crop: "resize" takes the whole image; "random_resized_crop" a box of 8 to 100 % of its area.
        Both ignore the aspect ratio.
      flip: whether half of the images are mirrored left to right.

    Returns:
      <uint8>[size, size, 3].
    """
    checks.one_of("crop", crop, TRAINING_CROPS)
    box_seed, flip_seed = tf.unstack(tf.random.split(seed))
    image = decode(encoded, size=size) if crop == "resize" else _random_box(encoded, box_seed, size)
    image = _resized(image, size)
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    return image


def evaluation_image(encoded, *, size, resize="resize"):
    """Decodes an image and brings it to the size of the model.

    Args:
      encoded: <string>[] bytes of a file that `decode` takes.
      size: side of the result, in pixels.
      resize: "resize" takes the whole image; "central_crop" the middle 7/8 of each side.

    Returns:
      <uint8>[size, size, 3].
    """
    image = decode(encoded, size=_side_before_crop(size, resize))
    return evaluation_size(image, size=size, resize=resize)


def evaluation_size(image, *, size, resize="resize"):
    """Brings decoded images to the size of the model, as `evaluation_image` does.

    Args:
      image: <uint8>[..., H, W, 3] of one image or several.
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


def _random_box(encoded, seed, size):
    # The fused decoder may not be led into a file that does not end as a JPEG must.
    end = tf.maximum(size_of(encoded) - len(_JPEG_END), 0)
    ends_well = text_at(encoded, end, len(_JPEG_END)) == _JPEG_END

    def decode_then_crop():
        image = decode(encoded)
        top, left, height, width = tf.unstack(_draw_box(tf.shape(image)[:2], seed))
        return image[top : top + height, left : left + width]

    return tf.cond(
        tf.io.is_jpeg(encoded) & ends_well,
        lambda: jpeg.decode_box(encoded, lambda sides: _draw_box(sides, seed), size=size),
        decode_then_crop,
    )


def _for_other(encoded, functions, otherwise):
    """Returns that function of a file which is its format's, in the order of `_OTHERS`."""
    start = tf.strings.substr(encoded, 0, 12)
    is_webp = (tf.strings.substr(start, 0, 4) == b"RIFF") & tf.strings.regex_full_match(
        start, rb"\C*WEBP"
    )
    is_format = [
        tf.strings.substr(start, 0, len(png.SIGNATURE)) == png.SIGNATURE,
        tf.strings.regex_full_match(start, rb"GIF8[79]a\C*"),
        is_webp,
        tf.strings.substr(start, 0, 2) == b"BM",
        tf.constant(True),
    ]
    branches = [lambda one=one: one(encoded) for one in (*functions, otherwise)]
    return tf.switch_case(tf.argmax(is_format, output_type=tf.int32), branches)


def _no_picture(encoded):
    return rules.require(tf.zeros([0, 0, 3], tf.uint8), tf.strings.length(encoded) < 0, NO_PICTURE)


def _draw_box(sides, seed):
    """Draws a box <int32>[4], top, left, height, width, of an image of <int32>[2] sides."""
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([sides, [3]], axis=0),
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=seed,
        min_object_covered=0.0,
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], extent[:2]], axis=0)
