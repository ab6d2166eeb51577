"""Codes of patches, the targets of masked image modelling: k-means of what a patch looks like.

Axis letters: B images, P patches of an image, K codes, F features of a patch.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import checks, whole_file
from limoe_tf.model import inputs

_BINS = 8
NUM_FEATURES = _BINS + 3
_COLOUR_WEIGHT = 2.0
_LOOKS = "looks"
# What NumPy raises of another file, a part of one, one array and an empty file.
_NO_CODEBOOK = (KeyError, OSError, ValueError, zipfile.BadZipFile, TypeError, EOFError)


def features(images: tf.Tensor, *, patch_size: int) -> tf.Tensor:
    """Returns what each patch looks like: <float32>[B, P, F].

    These are a histogram of the directions of its gradients, weighed by their lengths, and twice
    the mean of each colour.

    Args:
      images: <uint8>[B, H, W, 3], or <float>[B, H, W, 3] in [-1, 1].
      patch_size: side of a patch in pixels, which divides H and W.

    Reference: Dalal and Triggs, Histograms of oriented gradients for human detection, 2005.
    """
    inputs.check_floats(images)
    is_bytes = images.dtype == tf.uint8
    images = tf.cast(images, tf.float32)
    images = images / 255 if is_bytes else (images + 1) / 2
    grey = tf.pad(tf.reduce_mean(images, axis=-1), [[0, 0], [1, 1], [1, 1]], mode="SYMMETRIC")
    across = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    down = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    # Directions up to their sign, shared between the two nearest bins.
    place = tf.math.floormod(tf.math.atan2(down, across) / np.pi, 1.0) * _BINS
    distance = tf.abs(place[..., tf.newaxis] - tf.range(_BINS, dtype=tf.float32))
    share = tf.nn.relu(1 - tf.minimum(distance, _BINS - distance))
    length = tf.sqrt(across**2 + down**2 + 1e-12)
    histogram = _mean_of_patches(share * length[..., tf.newaxis], patch_size)
    return tf.concat(
        [_BINS * histogram, _COLOUR_WEIGHT * _mean_of_patches(images, patch_size)], axis=-1
    )


def pixels(images: tf.Tensor, *, patch_size: int) -> tf.Tensor:
    """Returns the pixels of each patch in [-1, 1]: <float32>[B, P, 3 * patch_size^2].

    Args:
      images: see `features`.
      patch_size: see `features`.
    """
    patches = inputs.in_patches(tf.cast(inputs.scaled(images), tf.float32), patch_size)
    return tf.reshape(patches, [-1, patches.shape[1], 3 * patch_size**2])


def _mean_of_patches(values, size):
    return tf.reduce_mean(inputs.in_patches(values, size), axis=2)


class PatchCodebook:
    """A file of K centres, which `k_means.fit` finds and `tpu_jobs.build_patch_codes` writes.

    Args:
      path: of the file.

    Attributes:
      centres: <float32>[K, F] of the features that decide the code of a patch.
      patch_size: side of the patches in pixels.
      looks: <float32>[K, F] what the patches of each code look like in the mean, see `features`;
        the centres themselves unless the features are another model's.
      model: dict of the arrays of the model whose features they are, see `LimoeFeatures`; empty if
        they are those of `features`.

    Raises:
      ValueError: if there is no such file, or it is no codebook.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = checks.existing_file("path", path)
        with tf.io.gfile.GFile(self.path, "rb") as file:
            self._content = file.read()
        try:
            with np.load(io.BytesIO(self._content), allow_pickle=False) as arrays:
                self.centres = arrays["centres"].astype(np.float32)
                self.patch_size = int(arrays["patch_size"])
                self.looks = arrays.get(_LOOKS, self.centres)
                others = set(arrays) - {"centres", "patch_size", _LOOKS}
                self.model = {name: arrays[name] for name in sorted(others)}
        except _NO_CODEBOOK as error:
            raise ValueError(
                f"`path` must be a codebook of patches. Received: path={self.path!r}"
            ) from error
        is_table = self.centres.ndim == 2 and len(self.looks) == len(self.centres)
        if not is_table or self.looks.shape[1:] != (NUM_FEATURES,):
            raise ValueError(
                f"A codebook must have centres of {NUM_FEATURES} features. "
                f"Received: shape={self.looks.shape} in {self.path!r}"
            )

    @property
    def sha256(self) -> str:
        """The SHA-256 hash of the file, in hexadecimal digits, which identifies the codebook."""
        return hashlib.sha256(self._content).hexdigest()

    def read(self) -> bytes:
        """Returns the bytes of the file, as they were when it was opened."""
        return self._content


def write(
    path: str,
    centres: np.ndarray,
    *,
    patch_size: int,
    looks: np.ndarray | None = None,
    model: Mapping[str, np.ndarray] | None = None,
) -> PatchCodebook:
    """Writes a codebook; never a part of it stands at the path. Returns it.

    Args:
      path: of the file, which ends with ".npz".
      centres: <float32>[K, F].
      patch_size: side of the patches in pixels.
      looks: see `PatchCodebook`; None for the centres.
      model: see `PatchCodebook`; None if the centres are of `features`.
    """
    arrays = {"centres": centres.astype(np.float32), "patch_size": np.int64(patch_size)}
    if looks is not None:
        arrays[_LOOKS] = looks.astype(np.float32)
    content = io.BytesIO()
    np.savez(content, **arrays, **(model or {}))
    whole_file.write(path, content.getvalue())
    return PatchCodebook(path)


class _Foreign:
    """Features of another model and the centres of them, of which Keras shall not know."""

    def __init__(self, extract, centres):
        self.extract, self.centres = extract, centres


@keras.saving.register_keras_serializable(package="limoe_tf")
class PatchCodes(keras.layers.Layer):
    """The code of each patch: the number of the nearest centre. Nothing of it is trained.

    Its weights are what patches look like. If a codebook is of another model's features, that model
    and its centres are not among them: the file must be given again wherever codes are computed.

    Args:
      num_codes: K.
      patch_size: side of a patch in pixels.
    """

    def __init__(self, num_codes: int, *, patch_size: int, **kwargs):
        super().__init__(**kwargs)
        self.num_codes = checks.positive_int("num_codes", num_codes)
        self.patch_size = checks.positive_int("patch_size", patch_size)
        self._foreign = None

    def build(self, images_shape=None):
        self.centres = self.add_weight(
            name="centres",
            shape=(self.num_codes, NUM_FEATURES),
            dtype="float32",
            initializer="zeros",
            trainable=False,
            autocast=False,
        )
        self.centres.fixed = True  # Nothing that could be trained, and is frozen.
        self.built = True

    def check(self, codebook: PatchCodebook) -> None:
        """Raises ValueError unless a codebook has these codes of patches of this size."""
        expected = {"num_codes": self.num_codes, "patch_size": self.patch_size}
        found = {"num_codes": len(codebook.centres), "patch_size": codebook.patch_size}
        if found != expected:
            raise ValueError(
                f"The codebook must be that of {expected}. Received: {codebook.path!r} of {found}"
            )

    def use(
        self,
        codebook: PatchCodebook,
        extract: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> None:
        """Takes the centres of a codebook that fits.

        Args:
          codebook: see `check`.
          extract: function of images to the features <float32>[B, P, F] of which the centres are;
            None if they are those of `features`.
        """
        self.centres.assign(codebook.looks)
        self._foreign = None
        if extract is not None:
            self._foreign = _Foreign(extract, tf.Variable(codebook.centres, trainable=False))

    @property
    def is_foreign(self) -> bool:
        """Whether codes are those of another model's features."""
        return self._foreign is not None

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns <int32>[B, P] of images as those of `features`."""
        if self._foreign is None:
            looks, centres = features(images, patch_size=self.patch_size), self.centres
        else:
            looks, centres = self._foreign.extract(images), self._foreign.centres
        centres = tf.convert_to_tensor(centres)
        # Squared distances, without the part that all centres have in common.
        scores = tf.reduce_sum(centres**2, axis=1) - 2 * tf.matmul(
            looks, tf.broadcast_to(centres, [1, *centres.shape]), transpose_b=True
        )
        return tf.argmin(scores, axis=-1, output_type=tf.int32)

    def colours(self, codes: tf.Tensor) -> tf.Tensor:
        """Returns the mean colours of patches with these codes: <uint8>[..., 3] of <int>[...]."""
        colours = tf.gather(tf.convert_to_tensor(self.centres), codes)[..., _BINS:]
        return tf.cast(tf.clip_by_value(255 * colours / _COLOUR_WEIGHT, 0, 255), tf.uint8)

    def compute_output_shape(self, images_shape):
        batch, height, width, _ = images_shape
        return (batch, (height // self.patch_size) * (width // self.patch_size))

    def get_config(self):
        return {
            **super().get_config(),
            "num_codes": self.num_codes,
            "patch_size": self.patch_size,
        }
