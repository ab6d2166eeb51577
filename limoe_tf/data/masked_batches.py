"""Training batches of masked modelling: pairs, images alone and texts alone, from three sources.

Axis letters: B examples, S side of an image, N word pieces of a text, M masked places.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data import masking
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import training_batches, with_options
from limoe_tf.data.mixture import Mixture, seed_of_part
from limoe_tf.data.records import Source
from limoe_tf.data.words import Vocabulary


@tf.autograph.experimental.do_not_convert
def masked_batches(
    source: Source | Mixture,
    *,
    vocabulary: Vocabulary,
    batch_size: int,
    image_size: int,
    patch_size: int,
    word_share: float,
    pair_word_share: float,
    patch_share: float,
    pair_patch_share: float,
    seed: int,
    start_step: int = 0,
    lone_images: Source | Mixture | None = None,
    lone_texts: Source | Mixture | None = None,
    read: Callable[..., tf.data.Dataset] = training_batches,
    bad_records: BadRecords | None = None,
    **others: Any,
) -> tf.data.Dataset:
    """Makes the endless dataset of training batches of `VlMoe`.

    Batch number n depends on the sources, `seed`, `batch_size` and n only, see
    `batches.training_batches`; so does what is masked. The three sources are independent: each has
    an order, windows and bad records of its own, and repeats when it is at its end.

    Args:
      source: of pairs.
      vocabulary: Vocabulary.
      batch_size: B, pairs in a batch over all replicas, and as many images and texts alone.
      image_size: S, side of the images in pixels.
      patch_size: side of a patch in pixels, which divides S.
      word_share: share of the words of texts alone that are masked.
      pair_word_share: share of the words of pairs.
      patch_share: share of the patches of images alone.
      pair_patch_share: share of the patches of pairs.
      seed: decides the order, and all that is drawn.
      start_step: number of the first batch.
      lone_images: of images alone; captions are not read. None for the images of `source`, in
        another order.
      lone_texts: of texts alone; images are not decoded. None for the captions of `source`, in
        another order.
      read: `batches.training_batches`, with the bindings of a gin file.
      bad_records: see there; each source is counted by itself.
      **others: further arguments of `read`.

    Returns:
      tf.data.Dataset of dicts as `VlMoe` takes them: `image`, `image_masked`, `lone_image`,
      `lone_image_masked`; and `text`, `text_valid`, `text_shown`, `text_masked`,
      `text_masked_present`, and the same of `lone_text`.

    Raises:
      ValueError: if a source lacks what is read of it, or an argument is out of range.

    Reference: https://arxiv.org/abs/2208.10442, section 3.1.
    """
    checks.positive_int("patch_size", patch_size)
    if image_size % patch_size:
        raise ValueError(
            "`image_size` must be a multiple of `patch_size`. "
            f"Received: image_size={image_size}, patch_size={patch_size}"
        )
    words = vocabulary.words()
    if not words:
        raise ValueError(f"A vocabulary must have words to mask. Received: {vocabulary.path!r}")
    num_patches = (image_size // patch_size) ** 2
    of_patches, of_words = (
        masking.num_patch_draws(num_patches),
        masking.num_word_draws(vocabulary.text_length),
    )
    bad_records = BadRecords() if bad_records is None else bad_records
    parts = {
        "pairs": (source, {"num_draws": of_patches + of_words}),
        "images": (lone_images or source, {"num_draws": of_patches, "vocabulary": None}),
        "texts": (lone_texts or source, {"num_draws": of_words, "image_size": None}),
    }
    counted = bad_records.of_sources(
        [f"{name} of {part.name}" for name, (part, _) in parts.items()]
    )
    streams = []
    for number, (part, changes) in enumerate(parts.values()):
        options = {"vocabulary": vocabulary, "image_size": image_size, **others, **changes}
        streams.append(
            read(
                part,
                batch_size=batch_size,
                # Pairs keep the seed; numbers far from those of the parts of a mixture.
                seed=seed_of_part(seed, 2**20 + number) if number else seed,
                start_step=start_step,
                bad_records=counted[number],
                **options,
            )
        )

    def mask_words(draws, batch, share):
        shown, places, present = masking.masked_words(
            draws,
            batch["text"],
            batch["text_valid"],
            words=words,
            vocabulary_size=vocabulary.size,
            share=share,
        )
        texts = {name: batch[name] for name in ("text", "text_valid")}
        return {
            **texts, "text_shown": shown, "text_masked": places, "text_masked_present": present,
        }  # fmt: skip

    def mask_patches(draws, batch, share):
        places = masking.masked_patches(draws, num_patches=num_patches, share=share)
        return {"image": batch["image"], "image_masked": places}

    def mask(pairs, images, texts):
        draws = pairs["draws"]
        lone = {
            **mask_patches(images["draws"], images, patch_share),
            **mask_words(texts["draws"], texts, word_share),
        }
        return {
            **mask_patches(draws[:, :of_patches], pairs, pair_patch_share),
            **mask_words(draws[:, of_patches:], pairs, pair_word_share),
            **{f"lone_{name}": value for name, value in lone.items()},
        }

    return with_options(tf.data.Dataset.zip(tuple(streams)).map(mask))
