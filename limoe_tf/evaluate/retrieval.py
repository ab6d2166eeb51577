"""Image-text retrieval: recall at k, median rank and contrastive accuracy."""

from collections.abc import Sequence

import numpy as np

from limoe_tf import checks
from limoe_tf.evaluate.ranks import (
    Ranks,
    embedding_matrix,
    hit_chance,
    mean_rank,
    rank_right,
    same_width,
)


def recalls(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    image_of_text: np.ndarray,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, float]]:
    """Measures recall at k and the median rank from text to image and from image to text.

    Text to image is averaged over all captions. Image to text is averaged over the images; any of
    an image's captions is right. Candidates that tie with the right one count as the mean over all
    orders of the tie: see `ranks.hit_chance`, and `ranks.mean_rank`, whose median over the queries
    is the median rank. The [n, m] matrix of scores is computed in blocks, never as a whole.

    Args:
      image_embeddings: <float32>[n, Z].
      text_embeddings: <float32>[m, Z], captions in any order.
      image_of_text: <int>[m] index of the image of each caption.
      ks: values of k; more than the number of candidates is allowed, and always a hit.

    Returns:
      dict of `text_to_image` and `image_to_text`, each a dict of floats `recall_at_1` and so on,
      and `median_rank`, 1 for the best.

    Raises:
      TypeError: if `image_of_text` or `ks` are not integers.
      ValueError: if a shape disagrees, an embedding is not finite, a caption has no image,
        or an image has no caption.
    """
    images = embedding_matrix("image_embeddings", image_embeddings)
    texts = embedding_matrix("text_embeddings", text_embeddings)
    same_width("image_embeddings", images, "text_embeddings", texts)
    owners = _check_owners(image_of_text, len(images), len(texts))
    each_text = np.arange(len(texts))
    directions = {
        "text_to_image": rank_right(texts, images, each_text, owners),
        "image_to_text": rank_right(images, texts, owners, each_text),
    }
    return {
        direction: _summary(ranks, ks, "recall_at", "median_rank")
        for direction, ranks in directions.items()
    }


def chance(
    image_of_text: np.ndarray, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, dict[str, float]]:
    """Returns the result of `recalls` for a model with constant embeddings.

    Args:
      image_of_text: see `recalls`.
      ks: values of k.

    Returns:
      dict as that of `recalls`, with names `chance_at_1` and so on, and `chance_median_rank`.

    Raises:
      TypeError, ValueError: see `recalls`.
    """
    owners = np.asarray(image_of_text)
    owners = _check_owners(owners, int(owners.max(initial=0)) + 1, len(owners))
    captions = np.bincount(owners)
    images, texts = np.zeros_like(captions), np.zeros_like(owners)
    directions = {
        "text_to_image": Ranks(better=texts, tied=texts + len(captions) - 1, right=texts + 1),
        "image_to_text": Ranks(better=images, tied=len(owners) - captions, right=captions),
    }
    return {
        direction: _summary(ranks, ks, "chance_at", "chance_median_rank")
        for direction, ranks in directions.items()
    }


def contrastive_accuracy(
    image_embeddings: np.ndarray, text_embeddings: np.ndarray, *, minibatch_size: int = 1024
) -> dict[str, float]:
    """Measures how often an image's own text is the nearest in its minibatch.

    Minibatches are consecutive rows. A smaller last one is easier, and is weighted by its size: the
    result is the mean over all images. Ties count as in `recalls`.

    Args:
      image_embeddings: <float32>[n, Z].
      text_embeddings: <float32>[n, Z], row i is the text of image i.
      minibatch_size: pairs contrasted with each other.

    Returns:
      dict of floats: `accuracy`, and `chance`, that of a model with constant embeddings.

    Raises:
      ValueError: if a shape disagrees or an embedding is not finite.

    Reference: https://arxiv.org/abs/2206.02770, table 3.
    """
    images = embedding_matrix("image_embeddings", image_embeddings)
    texts = embedding_matrix("text_embeddings", text_embeddings)
    same_width("image_embeddings", images, "text_embeddings", texts)
    if len(images) != len(texts):
        raise ValueError(
            "`text_embeddings` must have a row for each of the images. "
            f"Received: {len(images)} images, {len(texts)} texts"
        )
    checks.positive_int("minibatch_size", minibatch_size)
    starts = range(0, len(images), minibatch_size)
    hits = []
    for start in starts:
        part = slice(start, start + minibatch_size)
        own = np.arange(len(images[part]))
        hits.append(hit_chance(rank_right(images[part], texts[part], own, own), 1))
    accuracy = float(np.concatenate(hits).mean())
    return {"accuracy": accuracy, "chance": len(starts) / len(images)}


def _summary(ranks, ks, prefix, median_name):
    for k in ks:
        checks.positive_int("k", k)
    shares = {f"{prefix}_{k}": float(hit_chance(ranks, k).mean()) for k in ks}
    return {**shares, median_name: float(np.median(mean_rank(ranks)))}


def _check_owners(image_of_text, num_images, num_texts):
    """Returns `image_of_text` as <int64>[m] if every caption has an image and vice versa."""
    owners = np.asarray(image_of_text)
    if owners.dtype.kind not in "iu":
        raise TypeError(f"`image_of_text` must be integers. Received: {owners.dtype}")
    if owners.shape != (num_texts,):
        raise ValueError(
            f"`image_of_text` must have shape [{num_texts}], one number for each caption. "
            f"Received: shape {list(owners.shape)}"
        )
    outside = np.flatnonzero((owners < 0) | (owners >= num_images))
    if len(outside):
        raise ValueError(
            f"`image_of_text` must be between 0 and {num_images - 1}, one of the {num_images} "
            f"images. Received: image_of_text[{outside[0]}]={owners[outside[0]]}"
        )
    bare = np.flatnonzero(np.bincount(owners, minlength=num_images) == 0)
    if len(bare):
        raise ValueError(
            "`image_of_text` must give every image at least one caption. "
            f"Received: {len(bare)} without, the first is image {bare[0]}"
        )
    return owners.astype(np.int64)
