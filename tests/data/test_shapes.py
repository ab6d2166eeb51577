import hashlib
import math
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds

from limoe_tf.data import shapes

COUNTS = {"train": 3000, "validation": 300, "test": 300}


@pytest.fixture(scope="module")
def examples():
    return {
        split: [shapes.render(split, index) for index in range(count)]
        for split, count in COUNTS.items()
    }


@pytest.fixture(scope="module")
def singles(examples):
    return [example for example in examples["train"] if len(example.labels) == 1]


def coloured_pixels(image, label):
    """Returns where an image has the colour of a class, <bool>[H, W]."""
    value = np.array(shapes.COLOUR_VALUES[label // len(shapes.SHAPES)])
    return (np.abs(image.astype(int) - value) <= 9).all(axis=-1)


def centre(image, label):
    rows, columns = np.nonzero(coloured_pixels(image, label))
    return columns.mean(), rows.mean()


def digest_of_some_examples():
    digest = hashlib.sha256()
    for index in range(20):
        image, captions, labels, seen = shapes.render("test", index)
        digest.update(image.tobytes() + repr((captions, labels, seen)).encode())
    return digest.hexdigest()


def test_another_process_draws_the_same_bytes():
    here = os.path.dirname(os.path.abspath(__file__))
    script = "import test_shapes; print(test_shapes.digest_of_some_examples())"
    path = os.pathsep.join((here, os.path.dirname(here)))
    environment = dict(os.environ, PYTHONHASHSEED="7", PYTHONPATH=path)
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert printed.split()[-1] == digest_of_some_examples()


def test_no_image_occurs_twice_in_any_split(examples):
    images = [example.image.tobytes() for split in examples.values() for example in split]
    assert len(set(images)) == sum(COUNTS.values())


def test_each_split_ends_where_it_is_declared_to_end():
    assert shapes.SPLITS == {"train": 20_000, "validation": 2_000, "test": 2_000}
    for split, count in shapes.SPLITS.items():
        shapes.render(split, count - 1)
        with pytest.raises(ValueError, match=f"`index` must be between 0 and {count - 1}"):
            shapes.render(split, count)


def test_a_bad_split_and_a_bad_index_are_named():
    with pytest.raises(ValueError, match="`split` must be one of 'train'.*split='dev'"):
        shapes.render("dev", 0)
    with pytest.raises(TypeError, match="`index` must be an integer. Received: index=1.0"):
        shapes.render("train", 1.0)


def test_unseen_pairs_are_a_fifth_and_spread_evenly():
    # 48 pairs / 5 = 9.6, so 10.
    assert len(set(shapes.UNSEEN_CLASSES)) == 10
    colours = Counter(label // len(shapes.SHAPES) for label in shapes.UNSEEN_CLASSES)
    kinds = Counter(label % len(shapes.SHAPES) for label in shapes.UNSEEN_CLASSES)
    assert max(colours.values()) <= 2 and len(colours) == len(shapes.COLOURS)
    assert max(kinds.values()) <= 2 and len(kinds) == len(shapes.SHAPES)


def test_train_has_every_seen_pair_about_equally_often_and_no_unseen_pair(examples):
    counts = Counter(label for example in examples["train"] for label in example.labels)
    assert set(counts) == set(range(48)) - set(shapes.UNSEEN_CLASSES)
    # 3000 scenes of 1.5 objects over 38 pairs: 118 each, with a standard deviation below 11.
    assert min(counts.values()) > 118 - 4 * 11 and max(counts.values()) < 118 + 4 * 11
    assert all(example.seen for example in examples["train"])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_scenes_are_half_seen_half_unseen_and_never_mixed(examples, split):
    for example in examples[split]:
        unseen = [label in shapes.UNSEEN_CLASSES for label in example.labels]
        assert unseen == [not example.seen] * len(unseen)
    assert sum(example.seen for example in examples[split]) == COUNTS[split] / 2
    # 150 unseen scenes of 1.5 objects over 10 pairs.
    labels = {label for example in examples[split] for label in example.labels}
    assert set(shapes.UNSEEN_CLASSES) <= labels


def test_every_caption_is_short_and_names_every_object(examples):
    for example in examples["train"] + examples["test"]:
        assert len(example.captions) == 3
        for caption in example.captions:
            # The end-of-sentence token and two rare words of two pieces still fit into 16.
            assert caption == caption.lower() and len(caption.split()) <= 13
            named = re.findall(r"(\w+ (?:circle|square|triangle|star|cross|ring))", caption)
            assert sorted(named) == sorted(shapes.CLASS_NAMES[i] for i in example.labels)


def test_every_zero_shot_prompt_of_a_seen_class_is_a_caption_of_train(singles):
    captions = {caption for example in singles for caption in example.captions}
    for template in shapes.TEMPLATES:
        for label in set(range(48)) - set(shapes.UNSEEN_CLASSES):
            assert template.format(shapes.CLASS_NAMES[label]) in captions


def test_the_colours_of_the_objects_are_in_the_image_and_no_others(examples):
    for example in examples["train"][:600]:
        colours = Counter(label // len(shapes.SHAPES) for label in example.labels)
        for colour in range(len(shapes.COLOURS)):
            found = coloured_pixels(example.image, colour * len(shapes.SHAPES)).sum()
            # The smallest star covers 5 * 8**2 * 0.42 * sin(pi / 5) = 79 pixels, edges included.
            assert found >= 30 * colours[colour]
            assert colours[colour] or found <= 5


def test_large_objects_cover_more_than_small_ones_of_the_same_shape(singles):
    areas = {}
    for example in singles:
        size = re.match("a (small|large)", example.captions[1]).group(1)
        key = example.labels[0] % len(shapes.SHAPES), size
        areas.setdefault(key, []).append(coloured_pixels(example.image, example.labels[0]).sum())
    for shape in range(len(shapes.SHAPES)):
        assert max(areas[shape, "small"]) < min(areas[shape, "large"])


def test_the_place_of_a_single_object_is_told_as_drawn(singles):
    for example in singles:
        x, y = centre(example.image, example.labels[0])
        # Cells are 18 pixels from an edge at most, or 3 from the middle, so 24 and 40 part them.
        row = "top" if y < 24 else "bottom" if y > 40 else ""
        column = "left" if x < 24 else "right" if x > 40 else ""
        place = example.captions[1].split(shapes.CLASS_NAMES[example.labels[0]])[1]
        assert set(place.split()) & {"top", "bottom", "left", "right"} == {row, column} - {""}


def test_the_relation_in_the_caption_of_two_objects_is_that_of_the_image(examples):
    pattern = re.compile(r"a \w+ (\w+ \w+) (left of|right of|above|below) a \w+ (\w+ \w+)")
    counts = Counter()
    for example in examples["train"]:
        colours = {label // len(shapes.SHAPES) for label in example.labels}
        if len(colours) < 2:
            continue
        first, words, second = pattern.fullmatch(example.captions[1]).groups()
        (x1, y1), (x2, y2) = (
            centre(example.image, shapes.CLASS_NAMES.index(name)) for name in (first, second)
        )
        assert {"left of": x1 < x2, "right of": x1 > x2, "above": y1 < y2, "below": y1 > y2}[words]
        counts[words] += 1
    assert min(counts.values()) > 100


@pytest.mark.parametrize(
    "shape, area",
    [
        ("circle", math.pi * 0.92**2),
        ("ring", math.pi * (0.98**2 - 0.54**2)),
        ("square", 2.0),
        ("triangle", 3 * math.sqrt(3) / 4),
        # Ten triangles between the centre, a tip and an inner corner.
        ("star", 10 * 0.5 * 0.42 * math.sin(math.pi / 5)),
        # Two bars of 2 * 0.92 by 2 * 0.27, less their common middle.
        ("cross", 2 * (2 * 0.92) * (2 * 0.27) - (2 * 0.27) ** 2),
    ],
)
def test_shapes_have_the_areas_of_their_geometry(singles, shape, area):
    measured, radius_squared = 0.0, 0.0
    for example in singles:
        if shapes.CLASS_NAMES[example.labels[0]].endswith(shape) and "plain" in example.captions[2]:
            ground = example.image[0, 0].astype(float)
            value = np.median(example.image[coloured_pixels(example.image, example.labels[0])], 0)
            # Each pixel is a mixture of the plain ground and the object.
            cover = (example.image - ground) @ (value - ground) / np.sum((value - ground) ** 2)
            measured += cover.sum()
            sizes = {"small": (10.0, 12.0), "large": (15.0, 18.0)}
            low, high = sizes[example.captions[1].split()[1]]
            # The mean of the square of a uniform number.
            radius_squared += (low**2 + low * high + high**2) / 3
    assert measured == pytest.approx(area * radius_squared, rel=0.05)


def test_tensorflow_datasets_builds_and_reads_the_examples_as_rendered(monkeypatch, tmp_path):
    counts = {"train": 7, "validation": 5, "test": 3}
    monkeypatch.setattr(shapes, "SPLITS", counts)
    loaded, info = tfds.load("captioned_shapes", data_dir=tmp_path, with_info=True)
    assert tuple(info.features["labels"].feature.names) == shapes.CLASS_NAMES
    for split, count in counts.items():
        rendered = [shapes.render(split, index) for index in range(count)]
        wanted = {example.image.tobytes(): example for example in rendered}
        read = list(loaded[split].as_numpy_iterator())
        assert len(read) == count == info.splits[split].num_examples
        for record in read:
            example = wanted.pop(record["image"].tobytes())
            assert [caption.decode() for caption in record["captions"]] == example.captions
            assert record["labels"].tolist() == example.labels
            assert record["seen"] == example.seen
