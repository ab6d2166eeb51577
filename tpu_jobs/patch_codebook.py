"""Fits a codebook of patches to the images of a source, and says how it is used."""

import time

import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data import batches
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.mixture import Mixture
from limoe_tf.data.records import Source
from limoe_tf.evaluate.masked_modelling import code_floors
from limoe_tf.model import k_means, limoe_features, patch_codes
from limoe_tf.model.limoe import Limoe

_BATCH_SIZE = 64
_MAX_PATCHES = 200_000


def build(
    source: Source | Mixture,
    *,
    path: str,
    num_codes: int,
    patch_size: int,
    image_size: int,
    limoe: Limoe | None = None,
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
      limoe: model whose features of patches get the codes, of the same sizes; it becomes a part of
        the file. None takes those of `patch_codes.features`.
      max_images: images to fit to, in the order of training.
      seed: of that order and of the first centres.
      overwrite: whether an existing file may be replaced.

    Raises:
      ValueError: if the file exists, the sizes do not fit or are not those of the LIMoE, or patches
        look too much alike.
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
    model = None if limoe is None else limoe_features.packed(limoe)
    extract = None if model is None else limoe_features.LimoeFeatures(model)
    sizes = {"patch_size": patch_size, "image_size": image_size}
    if extract is not None:
        _check_sizes(extract, sizes)
    start, bad_records = time.monotonic(), BadRecords()
    kind = "images" if extract is None else "features of images"
    print(f"Fitting {num_codes} codes to {kind} of {source.name}: {path}", flush=True)
    looks, samples = _samples(source, sizes, extract, max_images, seed, bad_records)
    print(bad_records.report(), flush=True)
    flat = samples.reshape(-1, samples.shape[-1])
    chosen = np.random.default_rng(seed).permutation(len(flat))[:_MAX_PATCHES]
    centres = k_means.fit(flat[chosen], num_codes, seed=seed)
    codes = k_means.nearest(samples, centres)
    looks = None if extract is None else _means(looks, codes, num_codes)
    codebook = patch_codes.write(path, centres, patch_size=patch_size, looks=looks, model=model)
    floors = code_floors(codes, num_codes)
    print(
        f"wrote {path} (SHA-256 {codebook.sha256}): {floors['used_codes']} of {num_codes} codes in "
        f"use, entropy {floors['entropy']:.3f} nats, given the code on the left "
        f"{floors['entropy_given_left']:.3f}, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return codebook


def _check_sizes(extract, sizes):
    found = {name: getattr(extract, name) for name in sizes}
    if found != sizes:
        raise ValueError(
            f"`patch_size` and `image_size` must be the LIMoE's, {found}. Received: {sizes}"
        )


def _samples(source, sizes, extract, max_images, seed, bad_records):
    """Returns how the patches of some images look and what gets codes: <float32>[n, P, F] each."""
    read = batches.training_batches(
        source,
        vocabulary=None,
        batch_size=_BATCH_SIZE,
        image_size=sizes["image_size"],
        seed=seed,
        bad_records=bad_records,
    )
    looks, samples = [], []
    extract = extract and tf.function(extract, reduce_retracing=True)
    with bad_records.as_value_error():
        for batch in read.take(max_images // _BATCH_SIZE):
            images = batch["image"]
            found = patch_codes.features(images, patch_size=sizes["patch_size"]).numpy()
            looks.append(found)
            samples.append(found if extract is None else extract(images).numpy())
    return np.concatenate(looks), np.concatenate(samples)


def _means(looks, codes, num_codes):
    """Returns the mean looks <float32>[K, F] of the patches of each code; 0 if there are none."""
    sums = np.zeros([num_codes, looks.shape[-1]])
    np.add.at(sums, codes.reshape(-1), looks.reshape(-1, looks.shape[-1]))
    counts = np.bincount(codes.reshape(-1), minlength=num_codes)
    return sums / np.maximum(counts, 1)[:, np.newaxis]
