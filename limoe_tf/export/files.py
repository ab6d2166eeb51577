"""Converts images of any size, encoded or decoded, to uint8 of the model's size, in a graph."""

import tensorflow as tf

from limoe_tf.data import images

# Larger images are decoded one at a time, because the largest take a gigabyte each.
_LARGE = 10_000_000


def evaluation_images(files: tf.Tensor, *, size: int, resize: str) -> tf.Tensor:
    """Decodes files and resizes the images to the size of the model, as evaluation does.

    In a graph an error cannot be caught, only ignored: it shows as a missing number.

    Args:
      files: <string>[B] bytes of files that `data.images.decode` takes.
      size: side of the results, in pixels.
      resize: see `data.images.evaluation_image`.

    Returns:
      <uint8>[B, size, size, 3].

    Raises:
      tf.errors.InvalidArgumentError: if some are not such files; lists which.
    """

    def load(number, file):
        return number, images.evaluation_image(file, size=size, resize=resize)

    def loaded(is_wanted, num_parallel_calls):
        wanted = numbered.filter(lambda _, file: is_wanted(_pixels(file))).ignore_errors()
        return wanted.map(load, num_parallel_calls=num_parallel_calls).ignore_errors()

    count = tf.size(files, out_type=tf.int64)
    numbered = tf.data.Dataset.from_tensor_slices(files).enumerate()
    small = loaded(lambda num_pixels: num_pixels <= _LARGE, tf.data.AUTOTUNE)
    large = loaded(lambda num_pixels: num_pixels > _LARGE, None)
    # One more element, so that there is a batch even without files.
    end = tf.data.Dataset.from_tensors((count, tf.zeros([size, size, 3], tf.uint8)))
    found = small.concatenate(large).concatenate(end).batch(count + 1).get_single_element()
    numbers, pixels = found
    is_valid = tf.scatter_nd(numbers[:, tf.newaxis], tf.ones_like(numbers), [count + 1]) > 0
    rule = (
        "Images must be complete JPEG, PNG, still GIF, still WebP or BMP files of 2 to "
        f"{images.MAX_PIXELS} pixels."
    )
    pixels = required(pixels, is_valid, rule)
    pixels = tf.gather(pixels, tf.argsort(numbers))[:-1]
    return tf.ensure_shape(pixels, [None, size, size, 3])


def evaluation_pixels(pixels: tf.Tensor, *, size: int, resize: str) -> tf.Tensor:
    """Resizes decoded images to the size of the model, as evaluation does.

    Args:
      pixels: <uint8>[B, H, W, 3], of unknown shape in the graph, so that it can report a wrong one.
      size: side of the results, in pixels.
      resize: see `data.images.evaluation_image`.

    Returns:
      <uint8>[B, size, size, 3].

    Raises:
      tf.errors.InvalidArgumentError: if the shape is different, or has fewer than 2 pixels.
    """
    shape = tf.shape(pixels, tf.int64)
    of_colour = (tf.size(shape) == 4) & (shape[-1] == 3)
    pixels = required(pixels, of_colour, "Images must have shape (batch, height, width, 3).", shape)
    area = tf.reduce_prod(shape[1:3])
    is_valid = (shape[0] == 0) | ((area > 1) & (area <= images.MAX_PIXELS))
    pixels = required(pixels, is_valid, f"Images must have 2 to {images.MAX_PIXELS} pixels.", shape)
    pixels = tf.ensure_shape(pixels, [None, None, None, 3])
    return tf.cond(
        shape[0] > 0,
        lambda: images.evaluation_size(pixels, size=size, resize=resize),
        lambda: tf.zeros([0, size, size, 3], tf.uint8),
    )


def required(
    value: tf.Tensor, is_valid: tf.Tensor, rule: str, received: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns `value`; at run time, raises the rule if a value of `is_valid` is False.

    Args:
      value: a tensor.
      is_valid: <bool>[] or <bool>[n].
      rule: a sentence.
      received: a tensor to show; None for the indices at which `is_valid` is False.

    Raises:
      tf.errors.InvalidArgumentError: "assertion failed: [...]".
    """
    if received is None:
        rule, received = f"{rule} Received others at", tf.where(~is_valid)[..., 0]
    else:
        rule = f"{rule} Received:"
    check = tf.debugging.Assert(tf.reduce_all(is_valid), [rule, received], summarize=10)
    with tf.control_dependencies([check]):
        return tf.identity(value)


def _pixels(file):
    """Returns <int64>[] pixels, according to the header of a file."""
    return images.num_pixels(file)
