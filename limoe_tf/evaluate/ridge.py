"""Ridge regressions from frozen features to classes, in closed form.

Axis letters: n images, D features, C classes, P penalties.
"""

from typing import NamedTuple

import numpy as np

from limoe_tf import checks
from limoe_tf.evaluate.ranks import embedding_matrix, same_width

FIXED_PENALTY = 2.0**10
PENALTIES = tuple(2.0**exponent for exponent in range(-10, 20))
# The bias is the weight of a constant feature, so large that the penalty hardly holds it back.
_BIAS_FEATURE = 100.0
_LEAST_DEVIATION = 1e-5
_ROWS_A_CALL = 2048


class Ridge(NamedTuple):
    """Ridge regressions from features to classes, one for each penalty.

    Attributes:
      mean: <float64>[D] of the training features.
      deviation: <float64>[D] their standard deviation, and a little more.
      weights: <float64>[P, D + 1, C] of the whitened features and the constant one.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray

    def scores(self, features):
        """Returns <float64>[P, n, C] of <float>[n, D]; the largest of a row is the answer."""
        return _whitened(features, self.mean, self.deviation) @ self.weights


def fit(features, labels, *, num_classes, penalties=(FIXED_PENALTY,)):
    """Solves ridge regressions in closed form, in float64.

    Features are whitened by their own mean and standard deviation, a constant feature of 100 is
    the bias, and the targets are 1 for the class of an image and -1 for all others. With more
    features than images the dual form is solved.

    Args:
      features: <float>[n, D].
      labels: <int>[n], each less than C.
      num_classes: C.
      penalties: P factors of the sum of squared weights.

    Returns:
      Ridge.

    Reference: https://arxiv.org/abs/2010.11929, section 4.1.
    """
    features = np.asarray(features, np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + _LEAST_DEVIATION
    rows = _whitened(features, mean, deviation)
    targets = 2.0 * np.eye(num_classes)[labels] - 1.0
    return Ridge(mean, deviation, _solutions(rows, targets, penalties))


def _whitened(features, mean, deviation):
    rows = (np.asarray(features, np.float64) - mean) / deviation
    return np.pad(rows, ((0, 0), (0, 1)), constant_values=_BIAS_FEATURE)


def _solutions(rows, targets, penalties):
    """Returns (X'X + penalty)^-1 X'Y of each penalty; one decomposition serves them all."""
    wide = rows.shape[0] < rows.shape[1]
    values, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    turned = vectors.T @ (targets if wide else rows.T @ targets)
    solved = np.stack(
        [vectors @ (turned / (values + penalty)[:, np.newaxis]) for penalty in penalties]
    )
    return rows.T @ solved if wide else solved


def draw_shots(labels, shots, *, seed):
    """Draws the same number of images of each class.

    A seed and a class have one random order of the class's images, of which the first are taken:
    a draw of fewer shots is a part of a draw of more.

    Args:
      labels: <int>[n].
      shots: images of each class.
      seed: decides the order.

    Returns:
      <int64>[classes * shots] places in `labels`, class after class.

    Raises:
      ValueError: if a class has fewer images.
    """
    places = []
    for label in np.unique(labels):
        (own,) = np.nonzero(labels == label)
        if len(own) < shots:
            raise ValueError(
                "`shots` must be at most the training images of each class. "
                f"Received: shots={shots}, {len(own)} images of class {label}"
            )
        places.append(np.random.default_rng([seed, int(label)]).permutation(own)[:shots])
    return np.concatenate(places)


def accuracy(
    train_features,
    train_labels,
    test_features,
    test_labels,
    *,
    shots=(1, 5, 10, 25),
    num_seeds=3,
    sweep=False,
):
    """Measures how often a ridge regression on a few images of each class is right.

    The penalty is 2^10. If swept it is that of 2^-10, 2^-9 ... 2^19 with the most right answers
    on held-out images, the largest of those as good: the training images that the seed draws for
    no number of shots are held out. No test image has a part in the choice.

    Args:
      train_features: <float>[n, D] of the images from which shots are drawn.
      train_labels: <int>[n], one label for each.
      test_features: <float>[m, D].
      test_labels: <int>[m], of classes that are among the training images.
      shots: the numbers of images of each class.
      num_seeds: draws of shots, by the seeds 0, 1 ...
      sweep: whether the penalty is chosen.

    Returns:
      dict of floats for each number k of shots: `k_shot`, the mean over the draws; `k_shot_std`,
      their standard deviation; and, if swept, `k_shot_log2_penalty`, a mean too.

    Raises:
      TypeError: if a label or number is not an integer.
      ValueError: if a shape disagrees, a feature is not finite, a class has too few images, or
        none are left to choose the penalty.

    Reference: https://arxiv.org/abs/2010.11929, section 4.1; the sweep,
    https://arxiv.org/abs/2106.05974.
    """
    train = embedding_matrix("train_features", train_features)
    test = embedding_matrix("test_features", test_features)
    same_width("train_features", train, "test_features", test)
    train_labels = _checked("train_labels", train_labels, train)
    test_labels = _checked("test_labels", test_labels, test)
    check_known(test_labels, train_labels)
    train, test = (train, train_labels), (test, test_labels)
    shots = [checks.positive_int("shots", number) for number in shots]
    results = {}
    for number in shots:
        rates, exponents = np.transpose(
            [
                _one_draw(train, test, number, max(shots), seed, sweep)
                for seed in range(checks.positive_int("num_seeds", num_seeds))
            ]
        )
        results[f"{number}_shot"] = float(rates.mean())
        results[f"{number}_shot_std"] = float(rates.std())
        if sweep:
            results[f"{number}_shot_log2_penalty"] = float(exponents.mean())
    return results


def check_known(test_labels, train_labels):
    """Raises a ValueError if a test label is not among the training labels."""
    if unknown := sorted(set(test_labels.tolist()) - set(train_labels.tolist())):
        raise ValueError(
            f"`test_labels` must be among the training labels. Received: label {unknown[0]}"
        )


def _one_draw(train, test, shots, most_shots, seed, sweep):
    """Returns the share of right answers on the test images and log2 of the penalty."""
    features, labels = train
    classes, numbers = np.unique(labels, return_inverse=True)
    drawn = draw_shots(labels, shots, seed=seed)
    penalties = PENALTIES if sweep else (FIXED_PENALTY,)
    ridge = fit(features[drawn], numbers[drawn], num_classes=len(classes), penalties=penalties)
    best = 0
    if sweep:
        held_out = np.setdiff1d(np.arange(len(labels)), draw_shots(labels, most_shots, seed=seed))
        if not len(held_out):
            raise ValueError("`sweep` needs training images that are not drawn. Received: none")
        right = _shares_right(ridge, features[held_out], numbers[held_out])
        best = np.flatnonzero(right == right.max())[-1]
    ridge = ridge._replace(weights=ridge.weights[best : best + 1])
    test_features, test_labels = test
    rates = _shares_right(ridge, test_features, np.searchsorted(classes, test_labels))
    return rates[0], np.log2(penalties[best])


def _shares_right(ridge, features, labels):
    """Returns <float64>[P]; the features go a part at a time, as there may be many penalties."""
    right = np.zeros(len(ridge.weights))
    for start in range(0, len(features), _ROWS_A_CALL):
        part = slice(start, start + _ROWS_A_CALL)
        answers = ridge.scores(features[part]).argmax(axis=-1)
        right += (answers == labels[part]).sum(axis=-1)
    return right / len(features)


def _checked(name, labels, features):
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"`{name}` must be integers. Received: {name} of {labels.dtype}")
    if labels.shape != (len(features),):
        raise ValueError(
            f"`{name}` must have shape [{len(features)}], one for each image. "
            f"Received: shape {list(labels.shape)}"
        )
    return labels
