"""Ridge regressions from frozen features to classes, in closed form.

Axis letters: n images, D features, C classes, P penalties.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from limoe_tf import checks
from limoe_tf.evaluate.ranks import embedding_matrix, same_width

FIXED_PENALTY = 2.0**10
PENALTIES = tuple(2.0**exponent for exponent in range(-10, 20))
# The bias is the weight of a constant feature, so large that the penalty hardly affects it.
_BIAS_FEATURE = 100.0
_LEAST_DEVIATION = 1e-5
_ROWS_A_CALL = 2048


class Ridge(NamedTuple):
    """Ridge regressions from features to classes, one for each penalty.

    Attributes:
      mean: <float64>[D] mean of the training features.
      deviation: <float64>[D] their standard deviation plus 1e-5.
      weights: <float64>[P, D + 1, C] weights of the whitened features and the constant one.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns <float64>[P, n, C] of <float>[n, D]; a row's argmax is the predicted class."""
        return _whitened(features, self.mean, self.deviation) @ self.weights


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    penalties: Sequence[float] = (FIXED_PENALTY,),
) -> Ridge:
    """Solves ridge regressions in closed form, in float64.

    Features are whitened by their mean and standard deviation, a constant feature of 100 is the
    bias, and the targets are 1 for the class of an image and -1 for all others. With more features
    than images the dual form is solved.

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
    """Returns (X'X + penalty)^-1 X'Y of each penalty; from one decomposition."""
    wide = rows.shape[0] < rows.shape[1]
    values, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    turned = vectors.T @ (targets if wide else rows.T @ targets)
    solved = np.stack(
        [vectors @ (turned / (values + penalty)[:, np.newaxis]) for penalty in penalties]
    )
    return rows.T @ solved if wide else solved


def draw_shots(labels: np.ndarray, shots: int, *, seed: int) -> np.ndarray:
    """Draws the same number of images of each class.

    A seed and a class define one random order of the class's images, of which the first are used:
    a draw of fewer shots is a subset of a draw of more.

    Args:
      labels: <int>[n].
      shots: images of each class.
      seed: decides the order.

    Returns:
      <int64>[classes * shots] indices into `labels`, ordered by class.

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
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    shots: Sequence[int] = (1, 5, 10, 25),
    num_seeds: int = 3,
    sweep: bool = False,
) -> dict[str, float]:
    """Measures the accuracy of a ridge regression on a few images of each class.

    The penalty is 2^10. With a sweep it is the one of 2^-10, 2^-9 ... 2^19 with the highest
    accuracy on held-out images, the largest in case of a tie. The held-out images are the training
    images that the seed draws for no number of shots; test images are never used for it.

    Args:
      train_features: <float>[n, D] of the images from which shots are drawn.
      train_labels: <int>[n], one label for each.
      test_features: <float>[m, D].
      test_labels: <int>[m], of classes that are among the training images.
      shots: the numbers of images of each class.
      num_seeds: number of draws of shots, with the seeds 0, 1 ...
      sweep: whether the penalty is chosen.

    Returns:
      dict of floats for each number k of shots: `k_shot`, the mean over the draws; `k_shot_std`,
      their standard deviation; and, with a sweep, `k_shot_log2_penalty`, also a mean.

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


def check_known(test_labels: np.ndarray, train_labels: np.ndarray) -> None:
    """Raises a ValueError if a test label is not among the training labels."""
    if unknown := sorted(set(test_labels.tolist()) - set(train_labels.tolist())):
        raise ValueError(
            f"`test_labels` must be among the training labels. Received: label {unknown[0]}"
        )


def _one_draw(train, test, shots, most_shots, seed, sweep):
    """Returns the accuracy on the test images and log2 of the penalty."""
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
    """Returns <float64>[P]; the features are processed in parts, as there may be many penalties."""
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
