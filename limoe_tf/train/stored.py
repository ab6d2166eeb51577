"""What a run's folder, a checkpoint or a `.keras` file holds, by the names of checkpoints."""

import os
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import companions
from limoe_tf.train import checkpoint_files, names
from limoe_tf.train.checkpoint_files import COMPANIONS, SUFFIX, text_in


class Stored(NamedTuple):
    """Values that were saved of a model, read one at a time.

    Attributes:
      place: path of the checkpoint or file.
      specs: dict by name of `tf.TensorSpec`; names begin with "model/" and "optimizer/".
      companions: what the weights belong with, as text, see `limoe_tf.companions`.
      read: function of a name that returns its value as an array.
    """

    place: str
    specs: dict[str, tf.TensorSpec]
    companions: str
    read: Callable[[str], np.ndarray]


def opened(path: str | os.PathLike) -> Stored:
    """Opens what was saved of a model.

    Args:
      path: a run's folder or a folder of checkpoints, of which the newest is taken; a checkpoint
        (its path without a suffix); or a file that ends in `.keras`, which has no optimizer's
        state. On this machine or in a bucket.

    Returns:
      Stored.

    Raises:
      ValueError: if there is nothing of these at the path.
      OSError: if a checkpoint cannot be read.
    """
    path = os.fspath(path)
    if path.endswith(".keras") and tf.io.gfile.exists(path):
        return _of_keras_file(path)
    for folder in (os.path.join(path, "checkpoints"), path):
        if steps := checkpoint_files.steps_in(folder):
            return _of_checkpoint(checkpoint_files.path_of(folder, steps[-1]))
    if tf.io.gfile.exists(f"{path}.index"):
        return _of_checkpoint(path)
    raise ValueError(
        "`path` must be the folder of a run with checkpoints, a checkpoint without its suffix, or "
        f"a .keras file. Received: path={path!r}"
    )


def _of_checkpoint(path):
    reader, _ = checkpoint_files.opened(path)
    dtypes = reader.get_variable_to_dtype_map()
    specs = {
        key.removesuffix(SUFFIX): tf.TensorSpec(shape, dtypes[key])
        for key, shape in reader.get_variable_to_shape_map().items()
        if key.startswith(("model/", "optimizer/"))
    }

    def read(name):
        try:
            return np.asarray(reader.get_tensor(f"{name}{SUFFIX}"))
        except (tf.errors.OpError, IndexError, RuntimeError) as error:
            raise OSError(f"Cannot read checkpoint {path!r}: {error}") from error

    return Stored(path, specs, text_in(reader, COMPANIONS, "{}"), read)


def _of_keras_file(path):
    model = keras.models.load_model(path, compile=False)
    weights = names.of_weights(model)
    specs = {name: tf.TensorSpec(v.shape, v.dtype) for name, v in weights.items()}
    return Stored(path, specs, companions.stored(model), lambda name: weights[name].numpy())
