from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds

from limoe_tf.data import grid_classes, grid_scenes, shapes
from limoe_tf.data.grid_classes import CLASS_NAMES
from tests.data.test_shapes import coloured_pixels


@pytest.fixture(scope="module")
def examples():
    return [grid_classes.render("train", index) for index in range(480)]


def test_the_label_is_the_only_large_thing(examples):
    assert len(set(CLASS_NAMES)) == 24 and CLASS_NAMES[1] == "red triangle"
    for example in examples:
        sizes = [grid_scenes.SIZES[thing.size] for thing in example.things]
        assert sizes.count("large") == 1 and sizes.count("small") in (1, 2, 3)
        large = example.things[sizes.index("large")]
        name = f"{grid_scenes.COLOURS[large.colour]} {grid_scenes.SHAPES[large.shape]}"
        assert CLASS_NAMES[example.label] == name


def test_classes_are_balanced_and_the_small_things_are_of_any(examples):
    assert set(Counter(example.label for example in examples).values()) == {20}
    places, others = Counter(), Counter()
    for example in examples:
        for thing in example.things:
            if grid_scenes.SIZES[thing.size] == "large":
                places[thing.place] += 1
            else:
                others[thing.colour, thing.shape] += 1
    # 120 large ones at each place, with a deviation of 10.
    assert set(places) == {0, 1, 2, 3} and max(abs(n - 120) for n in places.values()) < 45
    assert len(others) == 24


def test_the_large_thing_is_seen_in_its_colour(examples):
    for example in examples[:50]:
        found = coloured_pixels(example.image, example.label // 4 * len(shapes.SHAPES))
        # A triangle of radius 13 covers 13**2 * 0.75 * sqrt(3) = 219 pixels, edges included.
        assert found.sum() > 100


def test_no_image_occurs_twice_or_in_grid_scenes(examples):
    images = [example.image.tobytes() for example in examples]
    for split in ("validation", "test"):
        images += [grid_classes.render(split, index).image.tobytes() for index in range(100)]
    for split in grid_scenes.SPLITS:
        images += [grid_scenes.render(split, index).image.tobytes() for index in range(100)]
    assert len(set(images)) == len(images)


def test_the_same_arguments_give_the_same_example_and_bad_ones_are_named(examples):
    again = grid_classes.render("train", 7)
    np.testing.assert_array_equal(again.image, examples[7].image)
    assert again[1:] == examples[7][1:]
    with pytest.raises(ValueError, match="`split` must be one of 'train'.*split='dev'"):
        grid_classes.render("dev", 0)
    with pytest.raises(ValueError, match="`index` must be between 0 and 999"):
        grid_classes.render("test", 1000)


def test_it_is_built_and_read_like_any_data_set(monkeypatch, tmp_path):
    counts = {"train": 12, "validation": 3, "test": 4}
    monkeypatch.setattr(grid_classes, "SPLITS", counts)
    built = tfds.load("grid_classes", data_dir=str(tmp_path), shuffle_files=False)
    for split, count in counts.items():
        records = list(tfds.as_numpy(built[split]))
        assert [record["label"] for record in records] == list(range(count))
        for index, record in enumerate(records):
            image = grid_classes.render(split, index).image
            np.testing.assert_array_equal(record["image"], image)
