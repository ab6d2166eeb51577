"""Builds the dataset `icon_names` of the archive that npm has fetched, or draws some of its icons.

python -m tpu_jobs.build_icons --manual_dir=downloads
python -m tpu_jobs.build_icons --gallery=icons.png
"""

import os

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags

from limoe_tf import checks
from limoe_tf.analyze import icon_gallery
from limoe_tf.data import icon_pictures, icons
from tpu_jobs import errors, usage


def build(
    manual_dir: str, *, data_dir: str | None = None, num_processes: int | None = None
) -> tfds.core.DatasetBuilder:
    """Builds the dataset, unless it is built, and returns its builder.

    Args:
      manual_dir: folder that holds the archive.
      data_dir: folder of the built datasets; None takes that of TensorFlow Datasets.
      num_processes: that draw at the same time; None takes the number of cores.

    Raises:
      ValueError: if the archive or resvg-py is missing.
    """
    builder = tfds.builder("icon_names", data_dir=data_dir)
    if builder.is_prepared():
        print(f"{builder.data_path} is there already")
        return builder
    _archive(manual_dir)
    builder.num_processes = num_processes
    settings = tfds.download.DownloadConfig(manual_dir=manual_dir)
    builder.download_and_prepare(download_config=settings)
    return builder


def _archive(folder):
    """Returns the path of the archive, if all that reading it takes is there."""
    try:
        icon_pictures.require_resvg()
    except ImportError as error:
        raise ValueError(str(error)) from error
    path = os.path.join(folder, icons.ARCHIVE)
    if not os.path.exists(path):
        raise ValueError(
            f"`manual_dir` must hold {icons.ARCHIVE}: `npm pack {icons.PACKAGE}` fetches it. "
            f"Received: manual_dir={folder!r}"
        )
    return path


def define_flags() -> None:
    flags.DEFINE_string("manual_dir", ".", "folder that holds the archive")
    flags.DEFINE_string("data_dir", None, "folder of the TFDS datasets")
    flags.DEFINE_integer("num_processes", None, "that draw; default: the number of cores")
    flags.DEFINE_string("gallery", None, "PNG to draw, of 96 icons, instead of building")


@errors.in_one_line
def main():
    values = flags.FLAGS
    manual_dir = os.path.expanduser(values.manual_dir)
    if values.num_processes is not None:
        checks.positive_int("num_processes", values.num_processes)
    if values.gallery:
        picture = icon_gallery.gallery(_archive(manual_dir))
        with tf.io.gfile.GFile(os.path.expanduser(values.gallery), "wb") as file:
            file.write(picture)
        print(f"wrote {values.gallery}")
        return
    data_dir = values.data_dir and os.path.expanduser(values.data_dir)
    builder = build(manual_dir, data_dir=data_dir, num_processes=values.num_processes)
    print(f"built {builder.data_path}")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
