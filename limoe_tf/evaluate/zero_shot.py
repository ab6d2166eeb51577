"""Zero-shot classification: the class whose text embedding is nearest to the image is predicted."""

from collections.abc import Callable, Sequence

import numpy as np

from limoe_tf import checks
from limoe_tf.data.words import canonical
from limoe_tf.evaluate.ranks import embedding_matrix, hit_chance, rank_right, same_width

# Images whose probabilities are computed in one call.
_IMAGES_A_CALL = 2048
# Prompts embedded in one call, so that thousands of classes x 80 templates need little memory.
_PROMPTS_A_CALL = 8192


def class_embeddings(
    encode: Callable[[Sequence[str]], np.ndarray],
    class_names: Sequence[str],
    templates: Sequence[str],
) -> np.ndarray:
    """Embeds each class as the mean over its prompts, normalized to unit length.

    A prompt is a template with the class name in place of "{}"; it is then canonicalized:
    underscores become spaces, punctuation is removed, letters are lower-cased, spaces collapse.

    Args:
      encode: function of a list of n strings to <float32>[n, Z] embeddings of unit length.
      class_names: list of strings; the index in the list is the label.
      templates: list of strings, each with "{}" in place of the class name.

    Returns:
      <float32>[classes, Z] embeddings of unit length.

    Raises:
      TypeError: if the names or templates are not lists of strings.
      ValueError: if one of the lists is empty, a template has no "{}" or a name is blank.

    Reference: LiT, https://arxiv.org/abs/2111.07991, appendix I.
    """
    check_prompts(class_names, templates)
    step = max(1, _PROMPTS_A_CALL // len(templates))
    blocks = []
    for start in range(0, len(class_names), step):
        names = class_names[start : start + step]
        prompts = [
            canonical(template.replace("{}", name)) for name in names for template in templates
        ]
        embedded = embedding_matrix("encode(prompts)", encode(prompts))
        blocks.append(embedded.reshape(len(names), len(templates), -1).mean(axis=1))
    means = np.concatenate(blocks).astype(np.float32)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-8)


def check_prompts(class_names: Sequence[str], templates: Sequence[str]) -> None:
    """Refuses class names and templates of which `class_embeddings` can make no prompts.

    Raises:
      TypeError, ValueError: see `class_embeddings`.
    """
    _check_strings("class_names", class_names)
    _check_strings("templates", templates)
    for label, name in enumerate(class_names):
        if not canonical(name):
            raise ValueError(f"`class_names` must hold words. Received: {name!r} for label {label}")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f'`templates` must each hold "{{}}". Received: {template!r}')


def check_labels(labels: Sequence[Sequence[int]], num_classes: int) -> None:
    """Refuses labels that `accuracy` would: each image needs one or more, all of them classes.

    Args:
      labels: see `accuracy`.
      num_classes: how many classes there are.

    Raises:
      TypeError, ValueError: see `accuracy`.
    """
    _label_pairs(labels, len(labels), num_classes)


def accuracy(
    image_embeddings: np.ndarray,
    class_embeddings: np.ndarray,
    labels: np.ndarray | Sequence[Sequence[int]],
) -> dict[str, float]:
    """Measures top-1 and top-5 accuracy.

    If an image has several labels any of them is right. Ties count as the mean over their orders:
    see `ranks.hit_chance`. With five classes or fewer `top_5` is 1. `mean_per_class` is the mean of
    the accuracies of the classes that have images; an image with several labels counts for each of
    its classes.

    Args:
      image_embeddings: <float32>[n, Z].
      class_embeddings: <float32>[classes, Z].
      labels: <int>[n], or n sequences of one or more integers.

    Returns:
      dict of floats `top_1`, `top_5` and `mean_per_class`, the mean of `top_1` over classes.

    Raises:
      TypeError: if a label is not an integer.
      ValueError: if a shape disagrees, an embedding is not finite, an image has no label, or a
        label is not a class.
    """
    images, classes = _checked_embeddings(image_embeddings, class_embeddings)
    image, label = _label_pairs(labels, len(images), len(classes))
    ranks = rank_right(images, classes, image, label)
    first = hit_chance(ranks, 1)
    # A label named twice counts once.
    image, label = np.unique(np.stack([image, label]), axis=1)
    sizes = np.bincount(label)
    shares = np.bincount(label, first[image])[sizes > 0] / sizes[sizes > 0]
    return {
        "top_1": float(first.mean()),
        "top_5": float(hit_chance(ranks, 5).mean()),
        "mean_per_class": float(shares.mean()),
    }


def calibration_error(
    image_embeddings: np.ndarray,
    class_embeddings: np.ndarray,
    labels: np.ndarray | Sequence[Sequence[int]],
    *,
    logit_scale: float,
    num_bins: int = 15,
) -> float:
    """Measures how far the probability of the predicted class is from the accuracy.

    Probabilities are the softmax over classes of the dot products times the logit scale. Images are
    binned by the probability p of their predicted class, in bins of equal width that include their
    upper edge. The error is the mean over images of | mean p - accuracy | of their bin, between 0
    and 1. Right answers are those of `accuracy`; with several labels p is still that of one class.

    Args:
      image_embeddings: <float32>[n, Z].
      class_embeddings: <float32>[classes, Z].
      labels: see `accuracy`.
      logit_scale: the model's inverse temperature.
      num_bins: number of bins between 0 and 1.

    Returns:
      float.

    Raises:
      TypeError, ValueError: see `accuracy`.

    Reference: expected calibration error, https://arxiv.org/abs/1706.04599, equation 3.
    """
    images, classes = _checked_embeddings(image_embeddings, class_embeddings)
    checks.positive_int("num_bins", num_bins)
    checks.number_in("logit_scale", logit_scale, 0)
    pairs = _label_pairs(labels, len(images), len(classes))
    right = hit_chance(rank_right(images, classes, *pairs), 1)
    confidence = np.concatenate(
        [
            _top_probability(images[start : start + _IMAGES_A_CALL], classes, logit_scale)
            for start in range(0, len(images), _IMAGES_A_CALL)
        ]
    )
    place = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    return float(np.abs(np.bincount(place, confidence - right)).sum() / len(images))


def _top_probability(images, classes, logit_scale):
    logits = logit_scale * (images.astype(np.float64) @ classes.astype(np.float64).T)
    return 1.0 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)


def _checked_embeddings(image_embeddings, class_embeddings):
    images = embedding_matrix("image_embeddings", image_embeddings)
    classes = embedding_matrix("class_embeddings", class_embeddings)
    same_width("image_embeddings", images, "class_embeddings", classes)
    return images, classes


def _check_strings(name, values):
    if isinstance(values, (str, bytes)) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"`{name}` must be a list of strings. Received: {name}={values!r}")
    if not len(values):
        raise ValueError(f"`{name}` must not be empty. Received: {name}={values!r}")


def _label_pairs(labels, num_images, num_classes):
    """Returns <int64>[P] images and <int64>[P] labels, one pair for each label of each image."""
    if len(labels) != num_images:
        raise ValueError(
            "`labels` must have one entry for each of the images. "
            f"Received: {len(labels)} entries, {num_images} images"
        )
    rows = [np.atleast_1d(np.asarray(row)) for row in labels]
    lengths = np.array([len(row) for row in rows])
    if not lengths.all():
        raise ValueError(
            "`labels` must give every image at least one label. "
            f"Received: {(lengths == 0).sum()} without, the first is image {lengths.argmin()}"
        )
    label = np.concatenate(rows)
    if label.dtype.kind not in "iu":
        raise TypeError(f"`labels` must be integers. Received: labels of {label.dtype}")
    wrong = label[(label < 0) | (label >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"`labels` must be between 0 and {num_classes - 1}, one of the {num_classes} classes. "
            f"Received: {wrong[0]}"
        )
    return np.repeat(np.arange(num_images), lengths), label.astype(np.int64)
