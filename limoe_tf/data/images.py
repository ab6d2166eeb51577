"""Decodes, crops and resizes images: from encoded bytes to uint8 of a fixed size.

Values stay uint8: float32 batches lower the rate by a fifth, and the model rescales on the device.

Training and evaluation resize in the same way, so that a model is tested on images like those it
was trained on: a JPEG is decoded at the smallest scale that is large enough, which averages pixels
at no cost, and the rest is bilinear resizing without antialiasing. `python -m benchmarks --only
input_pipeline` measures what that saves, and the difference from antialiased resizing.
"""

import tensorflow as tf

from limoe_tf import checks

TRAINING_CROPS = ("resize", "random_resized_crop")
EVALUATION_RESIZES = ("resize", "central_crop")

# Share of each side that a central crop keeps.
_CENTRAL_SHARE = 0.875
_JPEG_SCALES = (1, 2, 4, 8)
_JPEG_END = b"\xff\xd9"
SINGLE_PIXEL = "image of a single pixel"


def decode(encoded: tf.Tensor, *, size: int | None = None) -> tf.Tensor:
    """Decodes a JPEG, PNG, still GIF or still WebP image to RGB.

    CMYK is converted to RGB, 16 bits per channel to 8. An image of a single pixel, as web pages use
    for tracking, is an error.

    Args:
      encoded: <string>[] bytes of the file.
      size: a JPEG is decoded at 1/2, 1/4 or 1/8 of its sides, rounded up, if both are then still
        `size` pixels or more. None decodes it in full.

    Returns:
      <uint8>[H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: if the bytes are not a complete image.
    """

    def decode_jpeg():
        shape = _jpeg_shape(encoded)
        return _scaled(
            lambda scale: tf.io.decode_jpeg(encoded, channels=3, ratio=scale),
            lambda scale: -(-shape[:2] // scale),
            size,
        )

    return tf.cond(tf.io.is_jpeg(encoded), decode_jpeg, lambda: _decode_other(encoded))


def training_image(
    encoded: tf.Tensor, seed: tf.Tensor, *, size: int, crop: str = "resize", flip: bool = False
) -> tf.Tensor:
    """Decodes and resizes an image to the size of the model, with optional random crop and flip.

    The result depends on the arguments only.

    Args:
      encoded: <string>[] bytes of a file that `decode` takes.
      seed: <int64>[2] decides the box and the flip.
      size: side of the result, in pixels.
      crop: "resize" uses the whole image; "random_resized_crop" a box of 8 to 100 % of its area.
        Both ignore the aspect ratio.
      flip: whether half of the images are flipped left to right.

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


def evaluation_image(encoded: tf.Tensor, *, size: int, resize: str = "resize") -> tf.Tensor:
    """Decodes and resizes an image to the size of the model.

    Args:
      encoded: <string>[] bytes of a file that `decode` takes.
      size: side of the result, in pixels.
      resize: "resize" uses the whole image; "central_crop" the central 7/8 of each side.

    Returns:
      <uint8>[size, size, 3].
    """
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


def _random_box(encoded, seed, size):
    # The fused op decodes only the box, so it misses a truncation below the box. A file without the
    # end marker of a JPEG is decoded in full, which fails if a part of it is missing.
    ends_well = tf.strings.substr(encoded, -len(_JPEG_END), len(_JPEG_END)) == _JPEG_END

    def fused():
        box = _draw_box(_jpeg_shape(encoded), seed)
        return _scaled(
            lambda scale: tf.io.decode_and_crop_jpeg(
                encoded, box // scale, channels=3, ratio=scale
            ),
            lambda scale: box[2:] // scale,
            size,
        )

    def decode_then_crop():
        image = decode(encoded)
        top, left, height, width = tf.unstack(_draw_box(tf.shape(image), seed))
        return image[top : top + height, left : left + width]

    return tf.cond(tf.io.is_jpeg(encoded) & ends_well, fused, decode_then_crop)


def _scaled(decode_at, sides_at, size):
    """Decodes at the smallest scale, of 1, 1/2, 1/4, 1/8, that leaves both sides `size` pixels."""
    if size is None:
        return decode_at(1)
    fits = [tf.reduce_all(sides_at(scale) >= size) for scale in _JPEG_SCALES[1:]]
    branches = [lambda scale=scale: decode_at(scale) for scale in _JPEG_SCALES]
    return tf.switch_case(tf.reduce_sum(tf.cast(fits, tf.int32)), branches)


def _jpeg_shape(encoded):
    shape = tf.io.extract_jpeg_shape(encoded)
    return _more_than_a_pixel(shape, shape)


def _decode_other(encoded):
    image = tf.io.decode_image(encoded, channels=3)
    # A GIF or WebP has a leading axis of frames; several of them raise an error here.
    image = tf.reshape(image, tf.shape(image)[-3:])
    return _more_than_a_pixel(tf.shape(image), tf.ensure_shape(image, [None, None, 3]))


def _more_than_a_pixel(shape, value):
    enough = tf.debugging.Assert(tf.reduce_prod(shape[:2]) > 1, [SINGLE_PIXEL])
    with tf.control_dependencies([enough]):
        return tf.identity(value)


def _draw_box(shape, seed):
    """Draws a box as <int32>[4]: top, left, height, width."""
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=seed,
        min_object_covered=0.0,
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], extent[:2]], axis=0)
