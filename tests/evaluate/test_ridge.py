"""Few-shot accuracy, against equations solved by NumPy and answers counted in loops."""

import numpy as np
import pytest

from limoe_tf.evaluate import ridge


def solved(features, labels, num_classes, penalty, queries):
    """Scores by the normal equations: (X'X + penalty I) W = X'Y, with the features spelled out."""
    mean = [sum(column) / len(column) for column in features.T]
    deviation = [
        (sum((value - m) ** 2 for value in column) / len(column)) ** 0.5 + 1e-5
        for column, m in zip(features.T, mean)
    ]

    def whitened(rows):
        return np.array(
            [[(v - m) / d for v, m, d in zip(row, mean, deviation)] + [100.0] for row in rows]
        )

    targets = np.array(
        [[1.0 if label == c else -1.0 for c in range(num_classes)] for label in labels]
    )
    rows = whitened(features)
    size = rows.shape[1]
    weights = np.linalg.solve(rows.T @ rows + penalty * np.eye(size), rows.T @ targets)
    return whitened(queries) @ weights


def clusters(rng, num_images, num_classes, width, spread=1.5):
    """Images around the centre of their class, of which the last ones are other classes'."""
    centres = np.random.default_rng(8).normal(size=(num_classes, width))
    labels = np.arange(num_images) % num_classes
    features = centres[labels] + rng.normal(scale=spread, size=(num_images, width))
    return features.astype(np.float32), labels


@pytest.mark.parametrize("width", [5, 40])
def test_scores_solve_the_normal_equations_with_more_and_with_fewer_images_than_features(width):
    rng = np.random.default_rng(0)
    features, labels = clusters(rng, 21, 3, width)
    queries, _ = clusters(rng, 8, 3, width)
    features, queries = features + 300, queries + 300  # float32 means would be too far off.
    penalties = (2.0**-10, 1.0, 2.0**10)
    found = ridge.fit(features, labels, num_classes=3, penalties=penalties).scores(queries)
    assert found.dtype == np.float64 and found.shape == (3, 8, 3)
    for scores, penalty in zip(found, penalties):
        expected = solved(features.astype(np.float64), labels, 3, penalty, queries)
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-8)
    assert np.abs(found[0] - found[2]).max() > 0.1


def test_a_worked_regression_on_one_feature():
    # Features 1 and 3 have mean 2 and deviation 1: whitened -1 and 1, and the bias feature 100.
    # X'X = [[2, 0], [0, 20000]], X'Y = [[-2, 2], [0, 0]] for labels 0, 1; with penalty 2 the
    # weights are -2 / 4 and 2 / 4: a query of 4, whitened 2, scores -1 and 1.
    fitted = ridge.fit(np.array([[1.0], [3.0]]), [0, 1], num_classes=2, penalties=(2.0,))
    np.testing.assert_allclose(fitted.scores([[4.0]])[0], [[-1.0, 1.0]], rtol=1e-4)


def test_a_feature_that_never_changes_in_training_is_no_division_by_zero():
    features = np.array([[1.0, 7.0], [3.0, 7.0]])
    fitted = ridge.fit(features, [0, 1], num_classes=2, penalties=(2.0,))
    np.testing.assert_allclose(fitted.scores([[4.0, 7.0]])[0], [[-1.0, 1.0]], rtol=1e-4)


def test_a_draw_has_as_many_of_each_class_and_begins_a_larger_draw():
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], 12))
    drawn = {shots: ridge.draw_shots(labels, shots, seed=3) for shots in (2, 12)}
    for shots, places in drawn.items():
        assert labels[places].tolist() == [c for c in range(3) for _ in range(shots)]
        assert len(set(places.tolist())) == 3 * shots
    for c in range(3):
        assert drawn[2][2 * c : 2 * c + 2].tolist() == drawn[12][12 * c : 12 * c + 2].tolist()
    again = ridge.draw_shots(labels, 2, seed=3)
    other = ridge.draw_shots(labels, 2, seed=4)
    assert again.tolist() == drawn[2].tolist() != other.tolist()


def right_answers(train, train_labels, test, test_labels, penalty):
    classes = sorted(set(train_labels.tolist()))
    numbers = [classes.index(label) for label in train_labels]
    scores = solved(train.astype(np.float64), numbers, len(classes), penalty, test)
    answers = [classes[max(range(len(classes)), key=list(row).__getitem__)] for row in scores]
    return sum(answer == label for answer, label in zip(answers, test_labels)) / len(test)


def three_sets(seed=2):
    """Training and test images of the classes 3, 5 and 9."""
    rng, names = np.random.default_rng(seed), np.array([3, 5, 9])
    (train, train_labels), (test, test_labels) = clusters(rng, 60, 3, 6), clusters(rng, 31, 3, 6)
    return train, names[train_labels], test, names[test_labels]


def test_accuracy_is_the_mean_over_the_draws():
    train, train_labels, test, test_labels = three_sets()
    found = ridge.accuracy(train, train_labels, test, test_labels, shots=(1, 4), num_seeds=3)
    assert list(found) == ["1_shot", "1_shot_std", "4_shot", "4_shot_std"]
    for shots in (1, 4):
        rates = []
        for seed in range(3):
            drawn = ridge.draw_shots(train_labels, shots, seed=seed)
            rates.append(
                right_answers(train[drawn], train_labels[drawn], test, test_labels, 2.0**10)
            )
        assert 0.3 < np.mean(rates) < 1.0 and np.std(rates) > 0
        assert found[f"{shots}_shot"] == pytest.approx(np.mean(rates))
        assert found[f"{shots}_shot_std"] == pytest.approx(np.std(rates))


def test_a_swept_penalty_is_the_largest_of_the_best_on_images_that_are_not_drawn(monkeypatch):
    monkeypatch.setattr(ridge, "_ROWS_A_CALL", 7)
    train, train_labels, test, test_labels = three_sets()
    found = ridge.accuracy(
        train, train_labels, test, test_labels, shots=(3, 8), num_seeds=2, sweep=True
    )
    exponents = {}
    for shots in (3, 8):
        rates = []
        for seed in range(2):
            held_out = [
                i for i in range(60) if i not in ridge.draw_shots(train_labels, 8, seed=seed)
            ]
            drawn = ridge.draw_shots(train_labels, shots, seed=seed)
            known = train[drawn], train_labels[drawn]
            best = max(
                range(-10, 20),
                key=lambda e: (
                    right_answers(*known, train[held_out], train_labels[held_out], 2.0**e), e
                ),
            )  # fmt: skip
            rates.append(right_answers(*known, test, test_labels, 2.0**best))
            exponents.setdefault(shots, []).append(best)
        assert found[f"{shots}_shot"] == pytest.approx(np.mean(rates))
        assert found[f"{shots}_shot_log2_penalty"] == pytest.approx(np.mean(exponents[shots]))
    assert {10} != {e for of_shots in exponents.values() for e in of_shots}


@pytest.mark.parametrize(
    "changes, kind, message",
    [
        ({"shots": (21,)}, ValueError, "Received: shots=21, 20 images of class 3"),
        ({"shots": (20,), "sweep": True}, ValueError, "images that are not drawn. Received: none"),
        ({"shots": (0,)}, ValueError, "`shots` must be at least 1"),
        ({"num_seeds": 0}, ValueError, "`num_seeds` must be at least 1"),
        ({"test_labels": [3] * 30 + [4]}, ValueError, "training labels. Received: label 4"),
        ({"test_labels": [3]}, ValueError, r"must have shape \[31\]"),
        ({"test_labels": [3.0] * 31}, TypeError, "`test_labels` must be integers"),
        ({"test_features": np.ones((31, 5))}, ValueError, "same number of columns"),
        ({"train_features": np.full((60, 6), np.nan)}, ValueError, "must be finite"),
    ],
)
def test_what_cannot_be_measured_is_an_error(changes, kind, message):
    names = ("train_features", "train_labels", "test_features", "test_labels")
    with pytest.raises(kind, match=message):
        ridge.accuracy(**{**dict(zip(names, three_sets())), **changes})
