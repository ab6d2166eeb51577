from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds

from limoe_tf.data import grid_questions, grid_scenes
from limoe_tf.data.grid_questions import QUESTIONS
from tests.shared import grid_words


@pytest.fixture(scope="module")
def drawn():
    """Examples by split."""
    counts = {"train": 6000, "test": 2000}
    return {
        split: [grid_questions.draw(split, index) for index in range(count)]
        for split, count in counts.items()
    }


def test_there_are_65_questions_and_21_answers():
    # Four places twice; how many things, sizes (2), colours (6), shapes (4); whether there is a
    # colour, a shape, a colour and shape (24); where a colour or a shape is.
    assert len(QUESTIONS) == 2 * 4 + (1 + 2 + 6 + 4) + (6 + 4 + 24) + (6 + 4) == 65
    assert len({question.text for question in QUESTIONS}) == 65
    # Colours, shapes, counts, yes and no, places.
    assert len(set(grid_questions.ANSWERS)) == 6 + 4 + 5 + 2 + 4 == 21
    assert {answer for question in QUESTIONS for answer in question.answers} == set(
        grid_questions.ANSWERS
    )


def test_each_answer_is_what_the_scene_shows(drawn):
    for split, examples in drawn.items():
        for example in examples[:1000]:
            things = grid_scenes.things_of(split, example.scene)
            assert example.answer == grid_words.answer(example.question.text, things)


def test_questions_without_an_answer_have_none():
    things = [grid_scenes.Thing(0, 0, 1, 2), grid_scenes.Thing(1, 0, 1, 3)]
    answers = {question.text: question.answer(things) for question in QUESTIONS}
    assert answers["what colour is top left"] == "yellow"
    assert answers["what colour is bottom left"] is None
    assert answers["where is the yellow thing"] is None  # There are two.
    assert answers["where is the red thing"] is None
    assert answers["where is the ring"] == "top right"


def test_neither_the_most_frequent_answer_nor_the_question_alone_says_much(drawn):
    train, test = (
        [(example.question.text, example.answer) for example in drawn[split]]
        for split in ("train", "test")
    )
    # Half of a fifth are "yes": 0.1.
    majority = grid_words.share_right(
        [("", one) for _, one in train], [("", one) for _, one in test]
    )
    assert 0.08 < majority < 0.13
    # By kind 1/6 (colour), 1/4 (shape), 1/3 (count), 1/2 (exists), 1/4 (place): a fifth of each
    # makes 0.3. Of 2,000 questions the deviation is 0.01.
    assert grid_words.share_right(train, test) == pytest.approx(0.3, abs=0.04)


def test_kinds_are_equally_frequent(drawn):
    counts = Counter(example.question.kind for example in drawn["train"])
    # 1,200 each, with a deviation of 31.
    assert max(abs(counts[kind] - 1200) for kind in grid_questions.KINDS) < 125
    # Few questions meet a scene twice.
    test = drawn["test"]
    assert len({(example.question.text, example.scene) for example in test}) > 0.97 * len(test)


def test_the_same_arguments_give_the_same_example_and_bad_ones_are_named(drawn):
    assert [grid_questions.draw("test", index) for index in range(20)] == drawn["test"][:20]
    with pytest.raises(ValueError, match="`split` must be one of 'train'.*split='dev'"):
        grid_questions.draw("dev", 0)
    with pytest.raises(ValueError, match="`index` must be between 0 and 1999"):
        grid_questions.draw("test", 2000)


def test_it_is_built_and_read_like_any_data_set(monkeypatch, tmp_path):
    counts = {"train": 12, "validation": 3, "test": 4}
    monkeypatch.setattr(grid_questions, "SPLITS", counts)
    built = tfds.load("grid_questions", data_dir=str(tmp_path), shuffle_files=False)
    images = []
    for split, count in counts.items():
        records = list(tfds.as_numpy(built[split]))
        assert [record["question_id"] for record in records] == list(range(count))
        for index, record in enumerate(records):
            example = grid_questions.draw(split, index)
            scene = grid_scenes.render(split, example.scene)
            np.testing.assert_array_equal(record["image"], scene.image)
            assert record["question"].decode() == example.question.text
            assert [text.decode() for text in record["answers"]] == [example.answer]
            assert record["answer_type"] == example.question.kind.encode()
            assert record["scene"] == example.scene
        images.append({record["image"].tobytes() for record in records})
    train, validation, test = images
    assert not train & validation and not train & test and not validation & test
