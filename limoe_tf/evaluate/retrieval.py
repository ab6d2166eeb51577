"""Image-text retrieval: how often the right picture, or caption, is among the nearest few."""

import numpy as np

from limoe_tf import checks
from limoe_tf.evaluate.ranks import embedding_matrix, hit_chance, rank_right, same_width


def recalls(image_embeddings, text_embeddings, image_of_text, *, ks=(1, 5, 10)):
    """Measures recall at k from text to image and from image to text.

    Text to image is averaged over all captions. Image to text is averaged over the images, any of
    an image's captions being right. Candidates that tie with the right one count as the mean over
    all orders of the tie: see `ranks.hit_chance`. The [n, m] table of scores is made block by
    block, never whole.

    Args:
      image_embeddings: <float32>[n, Z].
      text_embeddings: <float32>[m, Z], captions in any order.
      image_of_text: <int>[m] which image each caption belongs to.
      ks: the numbers of places; more places than candidates is allowed, and always a hit.

    Returns:
      dict of `text_to_image` and `image_to_text`, each a dict of floats `recall_at_1` and so on.

    Raises:
      TypeError: if `image_of_text` or `ks` are not integers.
      ValueError: if a shape disagrees, an embedding is not finite, a caption belongs to no image,
        or an image has no caption.
    """
    images = embedding_matrix("image_embeddings", image_embeddings)
    texts = embedding_matrix("text_embeddings", text_embeddings)
    same_width("image_embeddings", images, "text_embeddings", texts)
    owners = _check_owners(image_of_text, len(images), len(texts))
    for k in ks:
        checks.positive_int("k", k)
    each_text = np.arange(len(texts))
    directions = {
        "text_to_image": rank_right(texts, images, each_text, owners),
        "image_to_text": rank_right(images, texts, owners, each_text),
    }
    return {
        direction: {f"recall_at_{k}": float(hit_chance(ranks, k).mean()) for k in ks}
        for direction, ranks in directions.items()
    }


def _check_owners(image_of_text, num_images, num_texts):
    """Returns `image_of_text` as <int64>[m] if every caption has an image and the reverse."""
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
