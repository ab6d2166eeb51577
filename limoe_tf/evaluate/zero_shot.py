"""Zero-shot classification: classes are described in words and the nearest description wins."""

import numpy as np

from limoe_tf import checks
from limoe_tf.data.words import canonical
from limoe_tf.evaluate.ranks import embedding_matrix, hit_chance, rank_right, same_width

# Images whose probabilities are computed in one call.
_IMAGES_A_CALL = 2048
# Prompts embedded in one call, so that thousands of classes x 80 templates need little memory.
_PROMPTS_A_CALL = 8192


def class_embeddings(encode, class_names, templates):
    """Embeds each class as the mean over its prompts, brought back to unit length.

    A prompt is a template with the class name in place of "{}"; it is then canonicalised:
    underscores become spaces, punctuation goes, letters are lower-cased, spaces collapse.

    Args:
      encode: function of a list of n strings to <float32>[n, Z] embeddings of unit length.
      class_names: list of strings; the place in the list is the label.
      templates: list of strings, each with "{}" where the class name goes.

    Returns:
      <float32>[classes, Z] embeddings of unit length.

    Raises:
      TypeError: if the names or templates are not lists of strings.
      ValueError: if one of the lists is empty, a template has no "{}" or a name says nothing.

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


def check_prompts(class_names, templates):
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


def check_labels(labels, num_classes):
    """Refuses labels that `accuracy` would: each image needs one or more, all of them classes.

    Args:
      labels: see `accuracy`.
      num_classes: how many classes there are.

    Raises:
      TypeError, ValueError: see `accuracy`.
    """
    _label_pairs(labels, len(labels), num_classes)


def accuracy(image_embeddings, class_embeddings, labels):
    """Measures how often the nearest class is a true one, and how often one of the nearest five.

    With several labels for an image any of them is right. Classes that tie share the answer: see
    `ranks.hit_chance`. With five classes or fewer `top_5` is 1. `mean_per_class` is the mean over
    the classes that have images of the share of right answers for their images; an image with
    several labels is one of each of their classes.

    Args:
      image_embeddings: <float32>[n, Z].
      class_embeddings: <float32>[classes, Z].
      labels: <int>[n], or n sequences of one or more integers.

    Returns:
      dict of floats `top_1`, `top_5` and `mean_per_class`, which is that of `top_1`.

    Raises:
      TypeError: if a label is not an integer.
      ValueError: if a shape disagrees, an embedding is not finite, an image has no label, or a
        label is no class.
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


def calibration_error(image_embeddings, class_embeddings, labels, *, logit_scale, num_bins=15):
    """Measures how far the probability of the nearest class is from the share of right answers.

    Probabilities are the softmax over classes of the dot products times the logit scale. Images go
    into bins of equal width by the probability p of their nearest class, the upper edge included.
    The error is the mean over images of | mean p - share of right answers | of their bin, between
    0 and 1. What is right is as for `accuracy`; with several labels p is still that of one class.

    Args:
      image_embeddings: <float32>[n, Z].
      class_embeddings: <float32>[classes, Z].
      labels: see `accuracy`.
      logit_scale: the model's inverse temperature.
      num_bins: bins between 0 and 1.

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
