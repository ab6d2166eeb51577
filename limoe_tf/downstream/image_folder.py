"""A folder of images, of which published annotations name the files."""

import os

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.downstream.left_out import Fault


class ImageFolder:
    """Finds images by their names; each folder is listed once, as buckets are slow.

    Args:
      path: the folder, on this machine or in a bucket.

    Raises:
      ValueError: if there is no such folder.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = checks.plain_path("images", path)
        if not tf.io.gfile.isdir(self.path):
            raise ValueError(f"`images` must be a folder. Received: images={self.path!r}")
        self._names = {}

    def find(self, name: str) -> str:
        """Returns the path of an image; raises Fault if there is none of that name.

        Args:
          name: of the file, perhaps with folders in front.
        """
        path = os.path.join(self.path, name)
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = _listed(folder)
        if name not in self._names[folder]:
            raise Fault("image file missing", path)
        return path


def _listed(folder):
    try:
        return set(tf.io.gfile.listdir(folder))
    except tf.errors.NotFoundError:
        return set()
    except UnicodeDecodeError as error:
        raise ValueError(f"Names of images must be UTF-8. Received: {folder} ({error})") from error
