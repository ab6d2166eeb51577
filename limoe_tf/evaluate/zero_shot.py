"""Zero-shot classification: classes are described in words and the nearest description wins."""

import numpy as np

from limoe_tf.data.words import canonical
from limoe_tf.evaluate.ranks import embedding_matrix, hit_chance, rank_right, same_width

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
    _check_strings("class_names", class_names)
    _check_strings("templates", templates)
    for name in class_names:
        if not canonical(name):
            raise ValueError(f"`class_names` must hold words. Received: {name!r}")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f'`templates` must each hold "{{}}". Received: {template!r}')
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


def accuracy(image_embeddings, class_embeddings, labels):
    """Measures how often the nearest class is a true one, and how often one of the nearest five.

    With several labels for an image any of them is right. Classes that tie share the answer: see
    `ranks.hit_chance`. With five classes or fewer `top_5` is 1.

    Args:
      image_embeddings: <float32>[n, Z].
      class_embeddings: <float32>[classes, Z].
      labels: <int>[n], or n sequences of one or more integers.

    Returns:
      dict of floats `top_1` and `top_5`.

    Raises:
      TypeError: if a label is not an integer.
      ValueError: if a shape disagrees, an embedding is not finite, an image has no label, or a
        label is no class.
    """
    images = embedding_matrix("image_embeddings", image_embeddings)
    classes = embedding_matrix("class_embeddings", class_embeddings)
    same_width("image_embeddings", images, "class_embeddings", classes)
    image_of_label, label = _label_pairs(labels, len(images), len(classes))
    ranks = rank_right(images, classes, image_of_label, label)
    return {f"top_{k}": float(hit_chance(ranks, k).mean()) for k in (1, 5)}


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
