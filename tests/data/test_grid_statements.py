from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds

from limoe_tf.data import grid_scenes, grid_statements
from limoe_tf.data.grid_statements import KINDS, STATEMENTS
from tests.shared import grid_words


@pytest.fixture(scope="module")
def drawn():
    """Examples by split."""
    counts = {"train": 6000, "test": 2000}
    return {
        split: [grid_statements.draw(split, index) for index in range(count)]
        for split, count in counts.items()
    }


def things_of(split, example):
    """Returns the things of the left and of the right scene."""
    scenes = (example.scene, example.other_scene)
    return [grid_scenes.things_of(split, scene) for scene in scenes]


def alone(drawn, known):
    """Returns the share of labels that are right if only `known(split, example)` is looked at."""
    pairs = [
        [(known(split, example), example.label) for example in drawn[split]]
        for split in ("train", "test")
    ]
    return grid_words.share_right(*pairs)


def test_there_are_104_statements():
    # A size, a colour or a shape (12), a colour and shape (24): in both and in one image. Of the
    # former as many and more. At four places the same colour and the same shape.
    assert len(STATEMENTS) == 2 * (12 + 24) + 2 * 12 + 2 * 4 == 104
    assert len({statement.text for statement in STATEMENTS}) == 104
    assert {statement.kind for statement in STATEMENTS} == set(KINDS)


def test_each_label_is_what_the_scenes_show(drawn):
    for split, examples in drawn.items():
        for example in examples:
            text = example.statement.text
            assert example.label == grid_words.is_true(text, *things_of(split, example))


def test_four_pairs_in_a_row_share_a_statement_and_two_of_them_are_true(drawn):
    for split, examples in drawn.items():
        for start in range(0, len(examples), 4):
            group = examples[start : start + 4]
            names = [f"{split}-{start // 4}-{pair}-0" for pair in range(4)]
            assert [example.identifier for example in group] == names
            assert len({example.statement.text for example in group}) == 1
            assert sum(example.label for example in group) == 2
    # All orders of two true and two false ones are drawn.
    labels = [example.label for example in drawn["train"]]
    assert len({tuple(labels[start : start + 4]) for start in range(0, 400, 4)}) == 6


def test_the_statement_alone_says_nothing(drawn):
    assert alone(drawn, lambda split, example: example.statement.text) == 0.5


@pytest.mark.parametrize("side", [0, 1])
def test_one_image_says_nothing_of_what_is_equal_and_little_of_the_rest(drawn, side):
    def known(split, example):
        things = things_of(split, example)[side]
        return example.statement.kind, example.statement.value(things)

    # Of "both" and "more" all values but one leave a doubt: 5/6 and 3/4. The rest is a coin.
    by_kind = {"both": 5 / 6, "more": 3 / 4}
    for kind in KINDS:
        of_kind = {
            split: [example for example in examples if example.statement.kind == kind]
            for split, examples in drawn.items()
        }
        # Of some 330 pairs the deviation is 0.03 at most.
        assert alone(of_kind, known) == pytest.approx(by_kind.get(kind, 0.5), abs=0.1)
    assert alone(drawn, known) < 0.65


def test_both_images_tell_all(drawn):
    def known(split, example):
        values = [example.statement.value(things) for things in things_of(split, example)]
        return example.statement.kind, *values

    assert alone(drawn, known) == 1


def test_kinds_are_equally_frequent(drawn):
    counts = Counter(example.statement.kind for example in drawn["train"][::4])
    # 250 each of 1,500, with a deviation of 14.
    assert max(abs(counts[kind] - 250) for kind in KINDS) < 60


def test_the_same_arguments_give_the_same_example_and_bad_ones_are_named(drawn):
    again = [grid_statements.draw("test", index) for index in range(20)]
    assert again == drawn["test"][:20]
    with pytest.raises(ValueError, match="`split` must be one of 'train'.*split='dev'"):
        grid_statements.draw("dev", 0)
    with pytest.raises(ValueError, match="`index` must be between 0 and 1999"):
        grid_statements.draw("test", 2000)


def test_it_is_built_and_read_like_any_data_set(monkeypatch, tmp_path):
    counts = {"train": 12, "validation": 4, "test": 4}
    monkeypatch.setattr(grid_statements, "SPLITS", counts)
    built = tfds.load("grid_statements", data_dir=str(tmp_path), shuffle_files=False)
    images = []
    for split, count in counts.items():
        records = list(tfds.as_numpy(built[split]))
        assert len(records) == count
        images.append(set())
        for index, record in enumerate(records):
            example = grid_statements.draw(split, index)
            for image, scene in (("image", "scene"), ("other_image", "other_scene")):
                assert record[scene] == getattr(example, scene)
                painted = grid_scenes.render(split, record[scene]).image
                np.testing.assert_array_equal(record[image], painted)
                images[-1].add(painted.tobytes())
            assert record["statement"].decode() == example.statement.text
            assert record["label"] == example.label
            assert KINDS[record["kind"]] == example.statement.kind
            assert record["identifier"].decode() == example.identifier
    train, validation, test = images
    assert not train & validation and not train & test and not validation & test
