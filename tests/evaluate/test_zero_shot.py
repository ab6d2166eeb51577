"""Zero-shot classification, against means and arguments of the maximum worked out by hand."""

import math

import numpy as np
import pytest

from limoe_tf.evaluate import zero_shot

# Unit vectors for prompts; the classes below are worked out from them.
PROMPTS = {
    "a red circle": [1.0, 0.0],
    "red circle": [0.0, 1.0],
    "a blue star": [0.6, -0.8],
    "blue star": [1.0, 0.0],
}


def encode_from_table(strings):
    return np.array([PROMPTS[string] for string in strings], np.float32)


def encode_anything(strings):
    """Embeds by the letters, so that different prompts get different directions."""
    rows = [np.random.default_rng(list(string.encode())).normal(size=5) for string in strings]
    values = np.array(rows, np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def top_by_sorting(images, classes, labels, k):
    hits = 0
    for image, right in zip(images, labels):
        order = sorted(range(len(classes)), key=lambda c: -float(np.dot(image, classes[c])))
        hits += any(c in right for c in order[:k])
    return hits / len(images)


def test_a_class_is_the_renormalised_mean_of_its_prompts():
    # Red: ((1, 0) + (0, 1)) / 2 has length 1/sqrt(2). Blue: (0.8, -0.4) has length sqrt(0.8).
    found = zero_shot.class_embeddings(
        encode_from_table, ["red circle", "blue star"], ["a {}", "{}"]
    )
    expected = [[math.sqrt(0.5), math.sqrt(0.5)], [0.8 / math.sqrt(0.8), -0.4 / math.sqrt(0.8)]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_names_and_templates_are_canonicalised_and_the_braces_survive_until_filled():
    found = zero_shot.class_embeddings(
        encode_from_table, ["Red_Circle!", "blue  star"], ["A {}.", '"{}",']
    )
    plain = zero_shot.class_embeddings(
        encode_from_table, ["red circle", "blue star"], ["a {}", "{}"]
    )
    np.testing.assert_array_equal(found, plain)


def test_many_prompts_in_several_calls_equal_one_class_at_a_time(monkeypatch):
    names, templates = [f"thing {i}" for i in range(11)], ["a {}", "the {}", "one {} only"]
    one_by_one = []
    for name in names:
        mean = encode_anything([template.format(name) for template in templates]).mean(axis=0)
        one_by_one.append(mean / np.linalg.norm(mean))
    calls = []

    def counted(strings):
        calls.append(len(strings))
        return encode_anything(strings)

    monkeypatch.setattr(zero_shot, "_PROMPTS_A_CALL", 13)
    found = zero_shot.class_embeddings(counted, names, templates)
    # 13 prompts have room for four classes of three prompts each: 4 + 4 + 3 classes.
    assert calls == [12, 12, 9]
    np.testing.assert_allclose(found, one_by_one, rtol=1e-5)


def test_a_worked_accuracy():
    # Nearest classes: image 0 -> 0, image 1 -> 1, image 2 -> 0 (0.8 against 0.6).
    classes = np.eye(2, dtype=np.float32)
    images = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], np.float32)
    found = zero_shot.accuracy(images, classes, np.array([0, 1, 1]))
    # Of class 0 the only image is right, of class 1 one of two.
    mean_per_class = pytest.approx((1 + 1 / 2) / 2)
    assert found == {"top_1": pytest.approx(2 / 3), "top_5": 1.0, "mean_per_class": mean_per_class}


@pytest.mark.parametrize("several", [False, True])
def test_accuracy_equals_sorting_with_one_label_and_with_several(several):
    rng = np.random.default_rng(0)
    images, classes = rng.normal(size=(60, 4)), rng.normal(size=(17, 4))
    images, classes = images.astype(np.float32), classes.astype(np.float32)
    lengths = rng.integers(1, 4, size=60) if several else np.ones(60, int)
    labels = [rng.integers(0, 17, size=length).tolist() for length in lengths]
    found = zero_shot.accuracy(images, classes, labels if several else np.ravel(labels))
    for k in (1, 5):
        expected = top_by_sorting(images, classes, labels, k)
        assert 0.0 < expected < 1.0
        assert found[f"top_{k}"] == pytest.approx(expected)
    by_class = []
    for c in range(17):
        own = [i for i in range(60) if c in labels[i]]
        if own:
            by_class.append(top_by_sorting(images[own], classes, [labels[i] for i in own], 1))
    assert found["mean_per_class"] == pytest.approx(sum(by_class) / len(by_class))
    assert abs(found["mean_per_class"] - found["top_1"]) > 1e-3


def test_a_label_named_twice_counts_once():
    # Class 0 ties with class 1; were the label counted twice, the chance would be 2/3.
    found = zero_shot.accuracy(np.ones((1, 2)), np.ones((2, 2)), [[0, 0]])
    assert found["top_1"] == pytest.approx(0.5)
    # Class 0 has image 0 once and image 1; were it twice, the mean would be (1/2 + 1/2 + 0) / 3.
    images, classes = np.array([[1.0, 1.0], [0.0, 1.0]]), np.eye(2)
    found = zero_shot.accuracy(images, classes, [[0, 0], [0]])
    assert found["mean_per_class"] == pytest.approx((1 / 2 + 0) / 2)


def test_classes_that_tie_share_the_answer():
    # Image 0 ties between its class and one other: 1/2. Image 1 has both tied classes: 1.
    classes = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    images = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert zero_shot.accuracy(images, classes, [[1], [0, 1]])["top_1"] == pytest.approx(0.75)


def test_one_class_is_always_right():
    found = zero_shot.accuracy(-np.ones((4, 2)), np.ones((1, 2)), np.zeros(4, np.int64))
    assert found == {"top_1": 1.0, "top_5": 1.0, "mean_per_class": 1.0}


def test_a_worked_calibration_error():
    # Two classes whose logits differ by log 3, so that the nearest has probability 3/4; or by
    # log 9: probability 9/10.
    classes = np.eye(2)
    images = np.array([[1.0, 0.0]] * 4 + [[2.0, 0.0]] * 2)
    # Three of four and one of two are right: gaps of 0 and 0.4, and a third of the images in the
    # latter's bin.
    labels = [0, 0, 0, 1, 0, 1]
    found = zero_shot.calibration_error(images, classes, labels, logit_scale=math.log(3))
    assert found == pytest.approx(0.4 * 2 / 6)
    # In one bin: | (4 x 3/4 + 2 x 9/10) / 6 - 4/6 |.
    found = zero_shot.calibration_error(
        images, classes, labels, logit_scale=math.log(3), num_bins=1
    )
    assert found == pytest.approx((3 + 1.8) / 6 - 4 / 6)


def test_a_probability_on_the_edge_of_a_bin_is_in_the_lower_one():
    # Image 0 has probability 1/2 and is wrong; image 1 has 1/4, and any class is right. Together in
    # the bin up to 1/2 their gaps, 1/2 and -3/4, make up for each other.
    classes = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.1], [0.0, 0.1]])
    images = np.array([[800.0, 0.0], [0.0, 0.0]])
    labels = [[2], [0, 1, 2, 3]]
    found = zero_shot.calibration_error(images, classes, labels, logit_scale=1.0, num_bins=2)
    assert found == pytest.approx(abs(1 / 2 - 3 / 4) / 2)


@pytest.mark.parametrize("several", [False, True])
def test_calibration_error_equals_a_loop_over_bins(several, monkeypatch):
    monkeypatch.setattr(zero_shot, "_IMAGES_A_CALL", 64)
    rng = np.random.default_rng(5)
    images, classes = rng.normal(size=(150, 4)), rng.normal(size=(6, 4))
    # Half of the predictions are right at any confidence: too confident in some bins and not
    # confident enough in others.
    labels = [
        [*rng.choice(6, size=int(several)), best if rng.random() < 0.5 else (best + 1) % 6]
        for best in (images @ classes.T).argmax(axis=1)
    ]
    bins = {}
    for image, right in zip(images, labels):
        powers = [math.exp(0.7 * sum(a * b for a, b in zip(image, row))) for row in classes]
        best = max(range(6), key=powers.__getitem__)
        probability = powers[best] / sum(powers)
        place = next(b for b in range(15) if probability <= (b + 1) / 15)
        bins.setdefault(place, []).append((probability, best in right))
    expected = 0.0
    for members in bins.values():
        mean_probability = sum(p for p, _ in members) / len(members)
        share_right = sum(hit for _, hit in members) / len(members)
        expected += len(members) / len(images) * abs(mean_probability - share_right)
    assert len(bins) > 8
    few_bins = zero_shot.calibration_error(images, classes, labels, logit_scale=0.7, num_bins=10)
    assert abs(few_bins - expected) > 1e-3
    found = zero_shot.calibration_error(images, classes, labels, logit_scale=0.7)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "names, templates, kind, message",
    [
        ([], ["{}"], ValueError, "`class_names` must not be empty"),
        (["cat"], [], ValueError, "`templates` must not be empty"),
        ("cat", ["{}"], TypeError, "`class_names` must be a list of strings"),
        (["cat"], ["a photo"], ValueError, "`templates` must each hold"),
        (["cat", "_!"], ["{}"], ValueError, "must hold words. Received: '_!'"),
    ],
)
def test_classes_that_cannot_be_described_are_an_error(names, templates, kind, message):
    with pytest.raises(kind, match=message):
        zero_shot.class_embeddings(encode_anything, names, templates)


@pytest.mark.parametrize(
    "labels, kind, message",
    [
        ([0, 1], ValueError, "2 entries, 3 images"),
        ([[0], [], [1]], ValueError, "1 without, the first is image 1"),
        ([0, 1, 2], ValueError, "between 0 and 1, one of the 2 classes. Received: 2"),
        ([0, -1, 1], ValueError, "Received: -1"),
        ([0.0, 1.0, 1.0], TypeError, "`labels` must be integers"),
    ],
)
def test_labels_that_fit_no_image_or_class_are_an_error(labels, kind, message):
    with pytest.raises(kind, match=message):
        zero_shot.accuracy(np.ones((3, 2)), np.eye(2), labels)
