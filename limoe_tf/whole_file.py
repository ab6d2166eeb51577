"""Files that are written as a whole: a reader finds the old one or the new one, never a part."""

import os

import tensorflow as tf


def write(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file atomically.

    Args:
      path: a local file or one in a bucket (`gs://`); its folder is created if necessary.
      content: all its bytes.
    """
    path = os.fspath(path)
    if os.path.dirname(path):
        tf.io.gfile.makedirs(os.path.dirname(path))
    partial = f"{path}.{os.getpid()}.partial"
    with tf.io.gfile.GFile(partial, "wb") as file:
        file.write(content)
    tf.io.gfile.rename(partial, path, overwrite=True)
