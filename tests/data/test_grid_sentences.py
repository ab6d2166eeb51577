from collections import Counter

import pytest
import tensorflow_datasets as tfds

from limoe_tf.data import grid_scenes, grid_sentences
from limoe_tf.data.grid_kinds import Kind
from limoe_tf.data.grid_sentences import HYPOTHESES, LABELS, Claim
from tests.shared import grid_words


@pytest.fixture(scope="module")
def drawn():
    """Examples by split."""
    counts = {"train": 6000, "test": 2000}
    return {
        split: [grid_sentences.draw(split, index) for index in range(count)]
        for split, count in counts.items()
    }


def alone(drawn, known):
    """Returns the share of labels that are right if only `known(example)` is looked at."""
    pairs = [
        [(known(example), example.label) for example in drawn[split]] for split in ("train", "test")
    ]
    return grid_words.share_right(*pairs)


def test_there_are_144_hypotheses():
    # Of each shape at each place: no more, a size, a colour.
    assert len(HYPOTHESES) == 4 * 4 * (1 + 2 + 6) == 144
    assert len({hypothesis.text for hypothesis in HYPOTHESES}) == 144


@pytest.mark.parametrize(
    "hypothesis, label",
    [
        ("a red ring top left", "entailment"),
        ("a ring top left", "entailment"),
        ("a small ring top left", "neutral"),  # The size is not told.
        ("a red cross top left", "contradiction"),
        ("a small cross top left", "contradiction"),
        ("a blue ring top left", "contradiction"),
        ("a red ring top right", "neutral"),  # There the colour is not told.
        ("a red ring bottom left", "neutral"),  # Nothing is told of the place.
    ],
)
def test_worked_examples(hypothesis, label):
    told = (Claim(1, Kind(size=0, shape=3)), Claim(0, Kind(colour=0, shape=3)))
    premise = " and ".join(claim.text for claim in told)
    assert premise == "a small ring top right and a red ring top left"
    (claim,) = [one for one in HYPOTHESES if one.text == hypothesis]
    assert grid_sentences.judge(told, claim) == grid_words.follows(premise, hypothesis) == label


def test_each_label_is_what_the_two_texts_say(drawn):
    for examples in drawn.values():
        for example in examples:
            assert example.label == grid_words.follows(example.premise, example.hypothesis.text)


def test_a_premise_tells_a_part_of_its_scene_and_nothing_else(drawn):
    for split, examples in drawn.items():
        for example in examples[:500]:
            things = {one.place: one for one in grid_scenes.things_of(split, example.scene)}
            assert all(claim.kind.includes(things[claim.place]) for claim in example.told)
            assert len({claim.place for claim in example.told}) == len(example.told) in (2, 3)


def test_words_are_those_of_captions_and_few(drawn):
    captions = [grid_scenes.caption(grid_scenes.things_of("train", index)) for index in range(50)]
    words = {word for caption in captions for word in caption.split()}
    for example in drawn["train"]:
        both = f"{example.premise} {example.hypothesis.text}".split()
        # Three things of six words, twice "and", a hypothesis of five: with a separator between
        # the two and the end a text length of 27 holds them.
        assert set(both) <= words and len(both) <= 3 * 6 + 2 + 5


def test_labels_and_hypotheses_are_balanced(drawn):
    counts = Counter(example.label for example in drawn["train"])
    # 2,000 each, with a deviation of 37.
    assert max(abs(counts[label] - 2000) for label in LABELS) < 150
    # A third; the deviation is 0.011.
    assert alone(drawn, lambda example: example.hypothesis) == pytest.approx(1 / 3, abs=0.05)
    # Premises of three things leave fewer places unknown.
    assert alone(drawn, lambda example: len(example.told)) < 0.43


def test_shared_words_do_not_suffice(drawn):
    def shared(example):
        words = example.hypothesis.text.split()
        return len(words), len(set(words) & set(example.premise.split()))

    # What is entailed shares all words, but so does a part of the rest.
    assert 0.6 < alone(drawn, shared) < 0.75


def test_few_pairs_of_texts_occur_in_two_splits(drawn):
    train, test = (
        [(example.premise, example.hypothesis) for example in drawn[split]]
        for split in ("train", "test")
    )
    assert len(set(test) & set(train)) < 0.02 * len(test)


def test_the_same_arguments_give_the_same_example_and_bad_ones_are_named(drawn):
    assert [grid_sentences.draw("test", index) for index in range(20)] == drawn["test"][:20]
    with pytest.raises(ValueError, match="`split` must be one of 'train'.*split='dev'"):
        grid_sentences.draw("dev", 0)
    with pytest.raises(ValueError, match="`index` must be between 0 and 1999"):
        grid_sentences.draw("test", 2000)


def test_it_is_built_and_read_like_any_data_set(monkeypatch, tmp_path):
    counts = {"train": 12, "validation": 3, "test": 4}
    monkeypatch.setattr(grid_sentences, "SPLITS", counts)
    built = tfds.load("grid_sentences", data_dir=str(tmp_path), shuffle_files=False)
    for split, count in counts.items():
        records = list(tfds.as_numpy(built[split]))
        assert len(records) == count
        for index, record in enumerate(records):
            example = grid_sentences.draw(split, index)
            assert record["premise"].decode() == example.premise
            assert record["hypothesis"].decode() == example.hypothesis.text
            assert LABELS[record["label"]] == example.label
            assert record["scene"] == example.scene
