"""Trains a SentencePiece model on the captions of a source.

python -m tpu_jobs.build_vocabulary --source=captioned_shapes --size=128 --output=shapes.model
python -m tpu_jobs.build_vocabulary --source="data/train-*.tfrecord" --output=words.model
"""

import itertools
import os
import time

import tensorflow as tf
from absl import app, flags

from limoe_tf.data import batches, sources, words
from limoe_tf.data.bad_records import BadRecords
from tpu_jobs import errors

_SECONDS_BETWEEN_LINES = 5


def open_source(name, *, split="train", captions=None, image=None, data_dir=None):
    """Opens TFRecord files if `name` is a pattern or a file, else a TFDS builder or its folder.

    Args:
      name: pattern or file of TFRecords, or name of a TensorFlow Datasets builder, or
        folder of a built dataset.
      split: split of the builder.
      captions: feature of the captions; None takes the usual one.
      image: feature of the image; None takes the usual one.
      data_dir: folder of the built datasets.

    Returns:
      TfrecordSource or TfdsSource.
    """
    features = {"captions": captions, "image": image}
    features = {part: key for part, key in features.items() if key}
    is_file = tf.io.gfile.exists(name) and not tf.io.gfile.isdir(name)
    if is_file or any(sign in name for sign in "*?["):
        return sources.TfrecordSource(name, **features)
    return sources.TfdsSource(name, split=split, data_dir=data_dir, **features)


def build(source, *, path, size, max_captions=None, overwrite=False, **settings):
    """Trains a vocabulary on a source, writes it and prints what happens.

    Args:
      source: TfrecordSource or TfdsSource.
      path: file to write.
      size: number of pieces.
      max_captions: captions to read, from the first on; None takes all.
      overwrite: whether an existing file may be replaced.
      **settings: more arguments of `words.train_vocabulary`.

    Raises:
      ValueError: if the file exists, in a run's folder that holds checkpoints whatever `overwrite`
        says, or the captions do not fit `size`.
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
    count, said = 0, time.monotonic()
    for count, caption in enumerate(captions, start=1):
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            print(f"{count:,} captions read", flush=True)
        yield caption
    print(f"{count:,} captions read in all, training", flush=True)


def define_flags():
    """Defines the flags; not done at import, so that other jobs can call `build`."""
    flags.DEFINE_string("source", None, "TFRecord files (a path or pattern), or a TFDS name.")
    flags.DEFINE_string("split", "train", "Split of a TFDS builder, such as train[:10%].")
    flags.DEFINE_string("captions", None, "Feature of the captions; else captions or caption.")
    flags.DEFINE_string("image", None, "Feature of the image; else image or jpg.")
    flags.DEFINE_string("data_dir", None, "Folder of the TFDS datasets.")
    flags.DEFINE_string("output", None, "File to write.")
    flags.DEFINE_integer("size", 32_000, "Pieces of the vocabulary.")
    flags.DEFINE_bool("exact_size", True, "Whether a corpus too small for the size is an error.")
    flags.DEFINE_enum("algorithm", "unigram", ("unigram", "bpe"), "How pieces are found.")
    flags.DEFINE_float("character_coverage", 1.0, "Share of characters with a piece of their own.")
    flags.DEFINE_integer("max_captions", None, "Captions to read, from the first on; else all.")
    flags.DEFINE_bool("overwrite", False, "Whether an existing file may be replaced.")
    flags.mark_flags_as_required(["source", "output"])


@errors.in_one_line
def main():
    values = flags.FLAGS
    source = open_source(
        values.source,
        split=values.split,
        captions=values.captions,
        image=values.image,
        data_dir=values.data_dir,
    )
    build(
        source,
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
    app.run(main)
