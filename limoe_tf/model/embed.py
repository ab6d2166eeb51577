"""From pixels and word pieces to streams of tokens.

Axis letters: B examples, N tokens of a stream, D width.
"""

import keras
import tensorflow as tf

from limoe_tf import checks, initial
from limoe_tf.model import inputs


def _of_vectors(width, stddev):
    """Returns the initializer of embeddings and positions."""
    if stddev is None:
        return keras.initializers.RandomNormal(stddev=width**-0.5)
    return initial.kernel(stddev)


@keras.saving.register_keras_serializable(package="limoe_tf")
class PatchEmbed(keras.layers.Layer):
    """Cuts an image into patches, projects each and adds a learned position.

    Args:
      width: D.
      patch_size: side of a patch, pixels.
      image_size: side of the square image, pixels; a multiple of `patch_size`.
      class_token: whether a learned vector, with a position of its own, comes before the patches.
      mask_token: whether a learned vector can stand in the place of patches.
      stddev: of the initial values of kernel and positions, a truncated normal; None for a variance
        of 1 / pixels and of 1 / D.

    Reference: https://arxiv.org/abs/2010.11929, equation 1; https://arxiv.org/abs/2106.08254,
      section 2.3 (masked patches).
    """

    def __init__(
        self,
        width: int,
        *,
        patch_size: int,
        image_size: int,
        class_token: bool = False,
        mask_token: bool = False,
        stddev: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width = checks.positive_int("width", width)
        self.patch_size = checks.positive_int("patch_size", patch_size)
        self.image_size = checks.positive_int("image_size", image_size)
        if image_size % patch_size:
            raise ValueError(
                "`image_size` must be a multiple of `patch_size`. "
                f"Received: image_size={image_size}, patch_size={patch_size}"
            )
        self.num_patches = (image_size // patch_size) ** 2
        self.num_tokens = self.num_patches + bool(class_token)
        self.class_token, self.mask_token = class_token, mask_token
        self.stddev = stddev
        kernel = "lecun_normal" if stddev is None else initial.kernel(stddev)
        self.projection = keras.layers.Dense(
            width, kernel_initializer=kernel, name="projection", dtype=self.dtype_policy
        )

    def build(self, images_shape):
        self.projection.build((None, None, 3 * self.patch_size**2))
        self.positions = self.add_weight(
            name="positions",
            shape=(self.num_tokens, self.width),
            initializer=_of_vectors(self.width, self.stddev),
        )
        if self.class_token:
            self.class_embedding = self._vector("class_embedding")
        if self.mask_token:
            self.mask_embedding = self._vector("mask_embedding")
        self.built = True

    def _vector(self, name):
        start = keras.initializers.RandomNormal(stddev=0.02)
        return self.add_weight(name=name, shape=(self.width,), initializer=start)

    def call(self, images: tf.Tensor, masked: tf.Tensor | None = None) -> tf.Tensor:
        """Returns <float>[B, N, D] of <float>[B, H, W, 3] or <uint8>[B, H, W, 3] images.

        Floats must be in [-1, 1]; uint8 0..255 is scaled to [-1, 1].

        Args:
          images: see above.
          masked: <bool>[B, patches], row by row of the image: which patches are not shown.

        Raises:
          ValueError: if the images are not of `image_size`, if there is no mask token for `masked`
            or, where values are known, if floats look like 0..255.
          TypeError: if they are neither floats nor uint8.
        """
        self._check(images)
        inputs.check_floats(images)
        images = tf.cast(inputs.scaled(images), self.compute_dtype)
        patches = inputs.in_patches(images, self.patch_size)
        patches = tf.reshape(patches, [-1, self.num_patches, 3 * self.patch_size**2])
        patches = tf.ensure_shape(patches, [images.shape[0], *patches.shape[1:]])
        embedded = self.projection(patches)
        if masked is not None:
            if not self.mask_token:
                raise ValueError("`masked` needs a mask token. Received: mask_token=False")
            mask = tf.convert_to_tensor(self.mask_embedding)
            embedded = tf.where(masked[..., tf.newaxis], mask, embedded)
        if self.class_token:
            first = tf.convert_to_tensor(self.class_embedding)
            first = tf.broadcast_to(first, [tf.shape(embedded)[0], 1, self.width])
            embedded = tf.concat([first, embedded], axis=1)
        return embedded + self.positions

    def _check(self, images):
        dtype = keras.backend.standardize_dtype(images.dtype)
        if dtype != "uint8" and not keras.backend.is_float_dtype(dtype):
            raise TypeError(f"`image` must be uint8 or float. Received: dtype={dtype}")
        expected = (self.image_size, self.image_size, 3)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"`image` must have shape (batch, {', '.join(map(str, expected))}). "
                f"Received: shape={tuple(images.shape)}"
            )

    def compute_output_spec(self, images, masked=None):
        self._check(images)
        shape = self.compute_output_shape(images.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_output_shape(self, images_shape):
        return (images_shape[0], self.num_tokens, self.width)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "patch_size": self.patch_size,
            "image_size": self.image_size,
            "class_token": self.class_token,
            "mask_token": self.mask_token,
            "stddev": self.stddev,
        }


@keras.saving.register_keras_serializable(package="limoe_tf")
class WordEmbed(keras.layers.Layer):
    """Looks up the embedding of each word piece and adds a learned position.

    Args:
      width: D.
      vocabulary_size: number of word pieces.
      text_length: N, word pieces of every text, padding included.
      stddev: of the initial values, a truncated normal; None for a normal of variance 1 / D.
    """

    def __init__(
        self,
        width: int,
        *,
        vocabulary_size: int,
        text_length: int,
        stddev: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width = checks.positive_int("width", width)
        self.vocabulary_size = checks.positive_int("vocabulary_size", vocabulary_size)
        self.text_length = checks.positive_int("text_length", text_length)
        self.stddev = stddev

    def build(self, text_shape):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.vocabulary_size, self.width),
            initializer=_of_vectors(self.width, self.stddev),
        )
        self.positions = self.add_weight(
            name="positions",
            shape=(self.text_length, self.width),
            initializer=_of_vectors(self.width, self.stddev),
        )
        self.built = True

    def call(self, text: tf.Tensor) -> tf.Tensor:
        """Returns <float>[B, N, D] of <int32>[B, N] ids.

        Raises:
          ValueError: if the texts are not of `text_length` or, where values are known, if an id is
            not in the vocabulary.
          TypeError: if they are not integers.
        """
        self._check(text)
        inputs.check_ids(text, self.vocabulary_size)
        return tf.gather(tf.convert_to_tensor(self.embeddings), text) + self.positions

    def _check(self, text):
        dtype = keras.backend.standardize_dtype(text.dtype)
        if not keras.backend.is_int_dtype(dtype):
            raise inputs.not_ids(dtype)
        if len(text.shape) != 2 or text.shape[1] != self.text_length:
            raise ValueError(
                f"`text` must have shape (batch, {self.text_length}). "
                f"Received: shape={tuple(text.shape)}"
            )

    def compute_output_spec(self, text):
        self._check(text)
        shape = self.compute_output_shape(text.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_output_shape(self, text_shape):
        return (*text_shape, self.width)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "vocabulary_size": self.vocabulary_size,
            "text_length": self.text_length,
            "stddev": self.stddev,
        }
