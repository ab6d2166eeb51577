"""A model as a `.keras` file, which also holds the vocabulary with which it was trained."""

import contextlib
import os
import tempfile
import zipfile

import keras
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data.words import Vocabulary

# A file of Keras is a ZIP archive; Keras reads its own members and leaves others alone.
_VOCABULARY = "vocabulary.model"


def write(
    model: keras.Model, path: str | os.PathLike, *, vocabulary: Vocabulary | None = None
) -> None:
    """Writes a model; at any time the old file, the new one or none stands at the path.

    Args:
      model: a Keras model.
      path: of the file, which ends in `.keras`, on this machine or in a bucket (`gs://`).
      vocabulary: `data.words.Vocabulary` that goes into the file, too; None for none.

    Raises:
      ValueError: if `path` has another ending.
    """
    path = os.fspath(path)
    if not path.endswith(".keras"):
        raise ValueError(f"`path` must end in .keras. Received: path={path!r}")
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    partial = f"{path}.{os.getpid()}.partial.keras"
    try:
        # Keras writes to this machine alone.
        with _folder_of(partial) as folder:
            local = os.path.join(folder, os.path.basename(partial))
            model.save(local)
            if vocabulary is not None:
                with zipfile.ZipFile(local, "a") as archive:
                    archive.writestr(_VOCABULARY, vocabulary.read())
            if _is_remote(partial):
                tf.io.gfile.copy(local, partial)
        tf.io.gfile.rename(partial, path, overwrite=True)
    finally:
        if tf.io.gfile.exists(partial):
            tf.io.gfile.remove(partial)


def read(path: str | os.PathLike) -> tuple[keras.Model, bytes | None]:
    """Reads a `.keras` file.

    Args:
      path: of the file, on this machine or in a bucket.

    Returns:
      The Keras model, not compiled, and the bytes of its vocabulary; None for a file without one.

    Raises:
      ValueError: if there is no such file, or it is no model.
    """
    path = checks.existing_file("path", path)
    with tempfile.TemporaryDirectory() as folder:
        local = path
        if _is_remote(path):
            local = os.path.join(folder, "model.keras")
            tf.io.gfile.copy(path, local)
        model = keras.models.load_model(local, compile=False)
        with zipfile.ZipFile(local) as archive:
            held = _VOCABULARY in archive.namelist()
            return model, archive.read(_VOCABULARY) if held else None


def _folder_of(path):
    """Returns a context that names a folder of this machine: a new one for what is in a bucket."""
    if _is_remote(path):
        return tempfile.TemporaryDirectory()
    return contextlib.nullcontext(os.path.dirname(path) or ".")


def _is_remote(path):
    return "://" in path
