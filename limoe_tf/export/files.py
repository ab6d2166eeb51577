"""Images of any size in, files or pixels; uint8 images of the model's size out, in one graph."""

import tensorflow as tf

from limoe_tf.data import images

# Above this images are decoded one at a time: the largest take a gigabyte each.
_LARGE = 10_000_000


def evaluation_images(files, *, size, resize):
    """Decodes files and brings the images to the size of the model, as evaluation does.

    In a graph an error cannot be caught, only passed over: it shows as a number that is missing.

    Args:
      files: <string>[B] bytes of files that `data.images.decode` takes.
      size: side of the results, in pixels.
      resize: see `data.images.evaluation_image`.

    Returns:
      <uint8>[B, size, size, 3].

    Raises:
      tf.errors.InvalidArgumentError: if some are no such files; says which.
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
    # One more, so that there is a batch even of no files.
    end = tf.data.Dataset.from_tensors((count, tf.zeros([size, size, 3], tf.uint8)))
    found = small.concatenate(large).concatenate(end).batch(count + 1).get_single_element()
    numbers, pixels = found
    is_sound = tf.scatter_nd(numbers[:, tf.newaxis], tf.ones_like(numbers), [count + 1]) > 0
    rule = (
        "Images must be whole JPEG, PNG, still GIF, still WebP or BMP files of 2 to "
        f"{images.MAX_PIXELS} pixels."
    )
    pixels = required(pixels, is_sound, rule)
    pixels = tf.gather(pixels, tf.argsort(numbers))[:-1]
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
    sound = (shape[0] == 0) | ((area > 1) & (area <= images.MAX_PIXELS))
    pixels = required(pixels, sound, f"Images must have 2 to {images.MAX_PIXELS} pixels.", shape)
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
    """Returns <int64>[] pixels that the head of a file claims."""
    return images.num_pixels(file)
