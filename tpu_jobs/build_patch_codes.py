"""Fits the codebook of patches, the targets of masked images, to the images of a source.

    python -m tpu_jobs.build_patch_codes --source=grid_scenes --num_codes=64 --patch_size=16 \\
        --image_size=64 --output=codebook.npz

Prints how many codes are used and the two floors that stand beside the loss of masked patches.
"""

import os
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from limoe_tf import checks
from limoe_tf.data import batches
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.mixture import Mixture
from limoe_tf.data.records import Source
from limoe_tf.evaluate.masked_modelling import code_floors
from limoe_tf.model import k_means, patch_codes
from tpu_jobs import errors, usage
from tpu_jobs.build_vocabulary import define_source_flags, source_of_flags

_BATCH_SIZE = 64
_MAX_PATCHES = 200_000


def build(
    source: Source | Mixture,
    *,
    path: str,
    num_codes: int,
    patch_size: int,
    image_size: int,
    max_images: int = 4096,
    seed: int = 0,
    overwrite: bool = False,
) -> patch_codes.PatchCodebook:
    """Fits a codebook, writes it, prints how it is used, and returns it.

    Args:
      source: of images; captions are not read.
      path: file to write, which ends with ".npz".
      num_codes: number of codes.
      patch_size: side of a patch in pixels, which divides `image_size`.
      image_size: side of the images in pixels.
      max_images: images to fit to, in the order of training.
      seed: of that order and of the first centres.
      overwrite: whether an existing file may be replaced.

    Raises:
      ValueError: if the file exists, the sizes do not fit, or patches look too much alike.
    """
    if tf.io.gfile.exists(path) and not overwrite:
        raise ValueError(f"The file exists; --overwrite replaces it. Received: output={path!r}")
    if image_size % checks.positive_int("patch_size", patch_size):
        raise ValueError(
            "`image_size` must be a multiple of `patch_size`. "
            f"Received: image_size={image_size}, patch_size={patch_size}"
        )
    checks.integer_in("max_images", max_images, _BATCH_SIZE)
    checks.positive_int("num_codes", num_codes)
    start, bad_records = time.monotonic(), BadRecords()
    print(f"Fitting {num_codes} codes to images of {source.name}: {path}", flush=True)
    samples = _looks(source, image_size, patch_size, max_images, seed, bad_records)
    print(bad_records.report(), flush=True)
    flat = samples.reshape(-1, samples.shape[-1])
    chosen = np.random.default_rng(seed).permutation(len(flat))[:_MAX_PATCHES]
    centres = k_means.fit(flat[chosen], num_codes, seed=seed)
    codebook = patch_codes.write(path, centres, patch_size=patch_size)
    floors = code_floors(k_means.nearest(samples, centres), num_codes)
    print(
        f"wrote {path} (SHA-256 {codebook.sha256}): {floors['used_codes']} of {num_codes} codes in "
        f"use, entropy {floors['entropy']:.3f} nats, given the code on the left "
        f"{floors['entropy_given_left']:.3f}, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return codebook


def _looks(source, image_size, patch_size, max_images, seed, bad_records):
    """Returns the features of the patches of some images: <float32>[n, P, F]."""
    read = batches.training_batches(
        source,
        vocabulary=None,
        batch_size=_BATCH_SIZE,
        image_size=image_size,
        seed=seed,
        bad_records=bad_records,
    )
    with bad_records.as_value_error():
        found = [
            patch_codes.features(batch["image"], patch_size=patch_size).numpy()
            for batch in read.take(max_images // _BATCH_SIZE)
        ]
    return np.concatenate(found)


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can call `build`."""
    define_source_flags()
    flags.DEFINE_string("output", None, "file to write, which ends with .npz")
    flags.DEFINE_integer("num_codes", 512, "codes of the codebook")
    flags.DEFINE_integer("patch_size", 16, "side of a patch, pixels")
    flags.DEFINE_integer("image_size", 224, "side of the images, pixels")
    flags.DEFINE_integer("max_images", 4096, "images to fit to")
    flags.DEFINE_integer("seed", 0, "of the order of the images and of the first centres")
    flags.DEFINE_bool("overwrite", False, "whether an existing file may be replaced")
    flags.mark_flags_as_required(["source", "output"])


@errors.in_one_line
def main():
    values = flags.FLAGS
    build(
        source_of_flags(images_only=True),
        path=os.path.expanduser(values.output),
        num_codes=values.num_codes,
        patch_size=values.patch_size,
        image_size=values.image_size,
        max_images=values.max_images,
        seed=values.seed,
        overwrite=values.overwrite,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
