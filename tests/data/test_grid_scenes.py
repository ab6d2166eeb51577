import hashlib
import itertools
import random
import re
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import grid_scenes, shapes
from limoe_tf.data.sources import TfdsSource
from tests.data.test_shapes import coloured_pixels

# Made by the first version; a change of it is a change of the dataset, which needs a new VERSION.
DIGEST = "26bc7ca6e1c56b366cf138de5825014c3dfaaa9789c8e61baa7b12fe840db3cc"
PARTS = {
    "size": grid_scenes.SIZES,
    "colour": grid_scenes.COLOURS,
    "shape": grid_scenes.SHAPES,
    "place": grid_scenes.PLACES,
}
THING = re.compile("a {} {} {} {}".format(*(f"(?P<{n}>{'|'.join(v)})" for n, v in PARTS.items())))


@pytest.fixture(scope="module")
def examples():
    return [grid_scenes.render("train", index) for index in range(1000)]


@pytest.fixture(scope="module")
def things(examples):
    return [thing for example in examples for thing in example.things]


def read(caption):
    """Returns the things that a caption names, in its order."""
    found = [THING.fullmatch(part).groupdict() for part in caption.split(" and ")]
    return [
        grid_scenes.Thing(**{name: PARTS[name].index(word) for name, word in one.items()})
        for one in found
    ]


def test_the_first_scenes_are_the_same_as_ever(examples):
    told = [(example.captions, [tuple(thing) for thing in example.things]) for example in examples]
    assert hashlib.sha256(repr(told[:20]).encode()).hexdigest() == DIGEST


def test_the_same_arguments_give_the_same_example_and_others_another(examples):
    for index in range(5):
        again = grid_scenes.render("train", index)
        np.testing.assert_array_equal(again.image, examples[index].image)
        assert again[1:] == examples[index][1:]
        test, validation = (grid_scenes.render(split, index) for split in ("test", "validation"))
        assert len({one.image.tobytes() for one in (again, test, validation)}) == 3
    assert len({example.image.tobytes() for example in examples}) == len(examples)


def test_things_are_known_without_a_picture_and_scenes_found_by_them(examples):
    for index in range(20):
        assert grid_scenes.things_of("train", index) == examples[index].things
    rng = random.Random(0)
    found = [grid_scenes.find_scene("test", rng, lambda things: len(things) == 4) for _ in range(9)]
    assert {len(grid_scenes.things_of("test", index)) for index in found} == {4}
    assert len(set(found)) > 5


def test_each_split_ends_where_it_is_declared_to_end():
    assert grid_scenes.TRAIN_SCENES == {"40k": 40_000, "100k": 100_000, "1m": 1_000_000}
    assert grid_scenes.SPLITS == {"train": 1_000_000, "validation": 2_000, "test": 2_000}
    for split, count in grid_scenes.SPLITS.items():
        grid_scenes.render(split, count - 1)
        with pytest.raises(ValueError, match=f"`index` must be between 0 and {count - 1}"):
            grid_scenes.render(split, count)


def test_a_bad_split_and_a_bad_index_are_named():
    with pytest.raises(ValueError, match="`split` must be one of 'train'.*split='dev'"):
        grid_scenes.render("dev", 0)
    with pytest.raises(TypeError, match="`index` must be an integer. Received: index=1.0"):
        grid_scenes.render("train", 1.0)


def test_each_caption_names_exactly_the_things_of_the_scene(examples):
    for example in examples:
        assert example.things == sorted(example.things)
        assert len({thing.place for thing in example.things}) == len(example.things)
        assert len(example.captions) == 5
        for caption in example.captions:
            assert sorted(read(caption)) == example.things
            # Six words a thing and an "and" between two: with the end, 28 pieces hold them all.
            assert len(caption.split()) == 7 * len(example.things) - 1 <= 27
    # The order is drawn for each caption: of two things each comes first half the time. Of some
    # 3,300 captions the share has a deviation of 0.009, and within a scene they are not all alike.
    of_two = [example for example in examples if len(example.things) == 2]
    first = [read(caption)[0] == one.things[0] for one in of_two for caption in one.captions]
    assert np.mean(first) == pytest.approx(0.5, abs=0.05)
    # Five captions of one order have a chance of 1 / 16.
    alike = np.mean([len(set(example.captions)) == 1 for example in of_two])
    assert alike == pytest.approx(1 / 16, abs=0.06)


def test_two_to_four_things_are_drawn_equally_often_and_so_are_their_places(examples, things):
    numbers = Counter(len(example.things) for example in examples)
    assert sorted(numbers) == [2, 3, 4]
    # Of 1,000 scenes a third each, with a deviation of 15.
    assert max(abs(count - 1000 / 3) for count in numbers.values()) < 60
    # Of some 3,000 things a quarter each, with a deviation of at most 24.
    places = Counter(thing.place for thing in things)
    assert max(abs(places[place] - len(things) / 4) for place in range(4)) < 96


@pytest.mark.parametrize("one, other", list(itertools.combinations(PARTS, 2)))
def test_what_a_thing_is_tells_nothing_else_of_it(things, one, other):
    counts = Counter((getattr(thing, one), getattr(thing, other)) for thing in things)
    pairs = list(itertools.product(range(len(PARTS[one])), range(len(PARTS[other]))))
    even = len(things) / len(pairs)
    assert set(counts) <= set(pairs)
    # Counts of independent and uniform ones are as in Poisson's distribution, or nearer together.
    assert max(abs(counts[pair] - even) for pair in pairs) < 4.5 * even**0.5


def test_a_thing_tells_nothing_of_another_one_of_its_scene(examples):
    pairs = [pair for example in examples for pair in itertools.combinations(example.things, 2)]
    assert len(pairs) > 3000
    for part in ("size", "colour", "shape"):
        same = np.mean([getattr(one, part) == getattr(other, part) for one, other in pairs])
        # The deviation is 0.01 at most.
        assert same == pytest.approx(1 / len(PARTS[part]), abs=0.04)


def quarters(image):
    """Returns the quarters of an image in the order of `PLACES`."""
    return [image[y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)]


def pixels_of(quarter, colour):
    return coloured_pixels(quarter, colour * len(shapes.SHAPES)).sum()


def test_each_thing_is_in_its_quarter_and_nothing_in_another(examples):
    for example in examples[:300]:
        colours = {thing.place: thing.colour for thing in example.things}
        for place, quarter in enumerate(quarters(example.image)):
            for colour in range(len(grid_scenes.COLOURS)):
                found = pixels_of(quarter, colour)
                # The smallest triangle covers 9**2 * 0.75 * sqrt(3) = 105 pixels, edges
                # included. Where an edge fades into the ground, few have another thing's colour.
                if colours.get(place) == colour:
                    assert found >= 40
                else:
                    assert found <= 5


def test_nothing_touches_the_lines_between_quarters(examples):
    for example in examples[:300]:
        crossing = np.stack([example.image[31:33].swapaxes(0, 1), example.image[:, 31:33]])
        for colour in range(len(grid_scenes.COLOURS)):
            assert pixels_of(crossing, colour) == 0


def test_large_things_cover_more_than_small_ones_of_the_same_shape(examples):
    areas = {}
    for example in examples[:300]:
        for thing in example.things:
            area = pixels_of(quarters(example.image)[thing.place], thing.colour)
            areas.setdefault((thing.shape, thing.size), []).append(area)
    for shape in range(len(grid_scenes.SHAPES)):
        assert max(areas[shape, 0]) < min(areas[shape, 1])


@pytest.fixture
def small(monkeypatch):
    """A few scenes a split."""
    counts = {"train": 12, "validation": 3, "test": 4}
    monkeypatch.setattr(grid_scenes, "SPLITS", counts)
    monkeypatch.setitem(grid_scenes.TRAIN_SCENES, "40k", counts["train"])
    return counts


def test_it_is_built_and_read_like_any_data_set(small, tmp_path):
    for split, count in small.items():
        source = TfdsSource(
            "grid_scenes/40k", split=split, labels="things/colour", data_dir=str(tmp_path)
        )
        assert tuple(source.label_names) == grid_scenes.COLOURS
        raw = tf.data.TFRecordDataset([file.path for file in source.files])
        records = list(raw.map(source.parse))
        assert len(records) == count
        for index, record in enumerate(records):
            example = grid_scenes.render(split, index)
            np.testing.assert_array_equal(tf.io.decode_png(record["image"]), example.image)
            assert [text.decode() for text in record["captions"].numpy()] == example.captions
            assert list(record["labels"]) == [thing.colour for thing in example.things]


def test_a_configuration_says_how_many_scenes_there_are_to_train_on(small, monkeypatch, tmp_path):
    monkeypatch.setitem(grid_scenes.TRAIN_SCENES, "40k", 5)
    source = TfdsSource("grid_scenes/40k", split="train", data_dir=str(tmp_path))
    (file,) = source.files
    assert file.stated == 5
