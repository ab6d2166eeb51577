"""Images of any size in, files or pixels; uint8 images of the model's size out, in one graph."""

import tensorflow as tf

from limoe_tf.data import images

# So that a small file cannot claim gigabytes: 300 MB once decoded.
MAX_PIXELS = 100_000_000
_PNG = b"\x89PNG"


def evaluation_images(files, *, size, resize):
    """Decodes files and brings the images to the size of the model, as evaluation does.

    In a graph an error cannot be caught, only passed over: it shows as a number that is missing.

    Args:
      files: <string>[B] bytes of JPEG, PNG or still GIF files.
      size: side of the results, in pixels.
      resize: see `data.images.evaluation_image`.

    Returns:
      <uint8>[B, size, size, 3].

    Raises:
      tf.errors.InvalidArgumentError: if some are no such files; says which.
    """

    def load(number, file):
        file = required(file, _pixels(file) <= MAX_PIXELS, "Too large.", file)
        return number, images.evaluation_image(file, size=size, resize=resize)

    count = tf.size(files, out_type=tf.int64)
    loaded = tf.data.Dataset.from_tensor_slices(files).enumerate()
    loaded = loaded.map(load, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    # One more, so that there is a batch even of no files.
    end = tf.data.Dataset.from_tensors((count, tf.zeros([size, size, 3], tf.uint8)))
    numbers, pixels = loaded.concatenate(end).batch(count + 1).get_single_element()
    is_sound = tf.scatter_nd(numbers[:, tf.newaxis], tf.ones_like(numbers), [count + 1]) > 0
    rule = f"Images must be whole JPEG, PNG or still GIF files of 2 to {MAX_PIXELS} pixels."
    pixels = required(pixels, is_sound, rule)[:-1]
    return tf.ensure_shape(pixels, [None, size, size, 3])


def evaluation_pixels(pixels, *, size, resize):
    """Brings decoded images to the size of the model, as evaluation does.

    Args:
      pixels: <uint8>[B, H, W, 3], of any shape for the graph, so that it can say what is wrong.
      size: side of the results, in pixels.
      resize: see `data.images.evaluation_image`.

    Returns:
      <uint8>[B, size, size, 3].

    Raises:
      tf.errors.InvalidArgumentError: if the shape is another one, or has less than 2 pixels.
    """
    shape = tf.shape(pixels, tf.int64)
    of_colour = (tf.size(shape) == 4) & (shape[-1] == 3)
    pixels = required(pixels, of_colour, "Images must have shape (batch, height, width, 3).", shape)
    area = tf.reduce_prod(shape[1:3])
    sound = (shape[0] == 0) | ((area > 1) & (area <= MAX_PIXELS))
    pixels = required(pixels, sound, f"Images must have 2 to {MAX_PIXELS} pixels.", shape)
    pixels = tf.ensure_shape(pixels, [None, None, None, 3])
    return tf.cond(
        shape[0] > 0,
        lambda: images.evaluation_size(pixels, size=size, resize=resize),
        lambda: tf.zeros([0, size, size, 3], tf.uint8),
    )


def required(value, is_sound, rule, received=None):
    """Returns `value`; where it runs, raises the rule if something is not sound.

    Args:
      value: a tensor.
      is_sound: <bool>[] or <bool>[n].
      rule: a sentence.
      received: a tensor to show; None for the places at which `is_sound` is False.

    Raises:
      tf.errors.InvalidArgumentError: "assertion failed: [...]".
    """
    if received is None:
        rule, received = f"{rule} Received others at", tf.where(~is_sound)[..., 0]
    else:
        rule = f"{rule} Received:"
    check = tf.debugging.Assert(tf.reduce_all(is_sound), [rule, received], summarize=10)
    with tf.control_dependencies([check]):
        return tf.identity(value)


def _pixels(file):
    """Returns <int64>[] pixels that the head of a JPEG, PNG or GIF file says it has."""
    height_width = tf.case(
        [
            (tf.io.is_jpeg(file), lambda: tf.io.extract_jpeg_shape(file)[:2]),
            (tf.strings.substr(file, 0, 4) == _PNG, lambda: _two_numbers(file, 16, tf.int32)),
        ],
        default=lambda: _two_numbers(file, 6, tf.uint16),
    )
    return tf.reduce_prod(tf.cast(height_width, tf.int64))


def _two_numbers(file, start, dtype):
    # A PNG writes its numbers with the large end first, a GIF with the small one.
    part = tf.strings.substr(file, start, 2 * dtype.size)
    values = tf.io.decode_raw(part, dtype, little_endian=dtype == tf.uint16)
    return tf.cast(values, tf.int32)
