"""Trains a SentencePiece model on the captions of a source.

python -m tpu_jobs.build_vocabulary --source=captioned_shapes --size=128 --output=shapes.model
python -m tpu_jobs.build_vocabulary --source="data/train-*.tfrecord" --output=words.model
"""

import itertools
import os
import time
from typing import Any

import tensorflow as tf
from absl import app, flags

from limoe_tf.data import batches, sources, text_source, words
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.records import Source
from tpu_jobs import errors, usage

_SECONDS_BETWEEN_LINES = 5


def open_source(
    name: str,
    *,
    split: str = "train",
    captions: str | None = None,
    image: str | None = None,
    data_dir: str | None = None,
    images_only: bool = False,
) -> Source:
    """Opens files if `name` is a pattern or a file, else a TFDS builder or its folder.

    Args:
      name: pattern or file of TFRecords or, if it ends with ".txt", of texts; or name of a
        TensorFlow Datasets builder, or folder of a built dataset.
      split: split of the builder.
      captions: feature of the captions; None takes the source's default.
      image: feature of the image; None takes the source's default.
      data_dir: folder of the built datasets.
      images_only: whether captions are left out, which the source need not have then.

    Returns:
      The source.
    """
    if name.endswith(".txt"):
        return text_source.TextSource(name)
    features = {"captions": captions, "image": image}
    features = {part: key for part, key in features.items() if key}
    if images_only:
        features["captions"] = None
    return open_records(name, split=split, data_dir=data_dir, **features)


def open_records(name: str, *, split: str, data_dir: str | None, **features: Any) -> Source:
    """Opens TFRecords or a TFDS builder as `open_source` does, with the features of the source."""
    is_file = tf.io.gfile.exists(name) and not tf.io.gfile.isdir(name)
    if is_file or any(sign in name for sign in "*?["):
        return sources.TfrecordSource(name, **features)
    return sources.TfdsSource(name, split=split, data_dir=data_dir, **features)


def build(
    source: Source,
    *,
    path: str,
    size: int,
    max_captions: int | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> None:
    """Trains a vocabulary on a source, writes it and prints the progress.

    Args:
      source: TfrecordSource, TfdsSource or TextSource.
      path: file to write.
      size: number of pieces.
      max_captions: number of captions to read, starting with the first; None takes all.
      overwrite: whether an existing file may be replaced.
      **settings: more arguments of `words.train_vocabulary`.

    Raises:
      ValueError: if the file exists, in the folder of a run with checkpoints even with `overwrite`,
        or `size` is too large or too small for the captions.
    """
    if tf.io.gfile.exists(path):
        if tf.io.gfile.isdir(os.path.join(os.path.dirname(path), "checkpoints")):
            raise ValueError(
                "The vocabulary of a run with checkpoints must stay: their weights know no other. "
                f"Received: output={path!r}"
            )
        if not overwrite:
            raise ValueError(f"The file exists; --overwrite replaces it. Received: output={path!r}")
    start = time.monotonic()
    bad_records = BadRecords()
    captions = batches.all_captions(source, bad_records=bad_records)
    captions = _counted(itertools.islice(captions, max_captions))
    print(f"reading captions of {source.name}", flush=True)
    num_pieces = words.train_vocabulary(captions, path=path, size=size, **settings)
    print(bad_records.report())
    seconds = time.monotonic() - start
    print(f"wrote {path}: {num_pieces:,} pieces ({size:,} asked for), {seconds:.0f} s", flush=True)


def _counted(captions):
    count, printed = 0, time.monotonic()
    for count, caption in enumerate(captions, start=1):
        if time.monotonic() - printed > _SECONDS_BETWEEN_LINES:
            printed = time.monotonic()
            print(f"{count:,} captions read", flush=True)
        yield caption
    print(f"{count:,} captions read in all, training", flush=True)


def define_source_flags() -> None:
    """Defines the flags of `source_of_flags`."""
    flags.DEFINE_string(
        "source", None, "TFRecord files or texts (.txt), by a path or pattern, or a TFDS name"
    )
    flags.DEFINE_string("split", "train", "split of a TFDS builder, such as train[:10%]")
    flags.DEFINE_string("image", None, "feature of the image; default: image or jpg")
    flags.DEFINE_string("data_dir", None, "folder of the TFDS datasets")


def source_of_flags(**others: Any) -> Source:
    """Opens the source that the flags name, with further arguments of `open_source`."""
    values = flags.FLAGS
    return open_source(
        values.source, split=values.split, image=values.image, data_dir=values.data_dir, **others
    )


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can call `build`."""
    define_source_flags()
    flags.DEFINE_string("captions", None, "feature of the captions; default: captions or caption")
    flags.DEFINE_string("output", None, "file to write")
    flags.DEFINE_integer("size", 32_000, "pieces of the vocabulary")
    flags.DEFINE_bool("exact_size", True, "whether a corpus too small for the size is an error")
    flags.DEFINE_enum("algorithm", "unigram", ("unigram", "bpe"), "SentencePiece model type")
    flags.DEFINE_float("character_coverage", 1.0, "share of characters with a piece of their own")
    flags.DEFINE_integer("max_captions", None, "number of captions to read; default: all")
    flags.DEFINE_bool("overwrite", False, "whether an existing file may be replaced")
    flags.mark_flags_as_required(["source", "output"])


@errors.in_one_line
def main():
    values = flags.FLAGS
    build(
        source_of_flags(captions=values.captions),
        path=os.path.expanduser(values.output),
        size=values.size,
        max_captions=values.max_captions,
        overwrite=values.overwrite,
        exact_size=values.exact_size,
        algorithm=values.algorithm,
        character_coverage=values.character_coverage,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
