"""Batches of a task from records, and the score on all of them."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.words import Vocabulary, train_vocabulary
from limoe_tf.downstream.batches import Fields, all_examples, fields_of, task_batches
from limoe_tf.downstream.examples import Examples
from limoe_tf.downstream.score import Score
from tests.shared import tasks
from tests.shared.record_files import jpeg

ANSWERS = ["red", "blue", "2", "yes", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def words(folder):
    texts = [f"what is it {word} is a thing" for word in ("one", "two", "three")]
    train_vocabulary(texts, path=str(folder / "words.model"), size=19, algorithm="bpe")
    return Vocabulary(folder / "words.model", text_length=5)


def source_of(folder, count=20, **changes):
    examples = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        path.write_bytes(jpeg(number))
        one = {
            "image": str(path), "question": f"what is it {number}", "number": number,
            "answers": [ANSWERS[number % 5]] * 10, "answer_type": "ab"[number % 2],
            "question_id": 100 + number,
        }  # fmt: skip
        examples.append({k: v for k, v in {**one, **changes}.items() if v is not None})
    return Examples(examples, name="questions", cache_dir=folder / "cache")


def number_of(record):
    return {"number": record["number"]}


FIELDS = Fields(("image",), {"question": ("question",)}, number_of)


def batches(source, words, **options):
    options = {"batch_size": 4, "image_size": 8, "seed": 3, "shuffle_window": 8, **options}
    return task_batches(source, vocabulary=words, fields=FIELDS, **options)


def test_a_batch_has_images_texts_and_labels_of_static_shape(folder, words):
    data = batches(source_of(folder), words, shuffle_window=20)
    assert {name: (spec.shape, spec.dtype) for name, spec in data.element_spec.items()} == {
        "image": ((4, 8, 8, 3), tf.uint8), "question": ((4, 5), tf.int32),
        "question_valid": ((4, 5), tf.bool), "number": ((4,), tf.int64),
    }  # fmt: skip
    seen = np.concatenate([batch["number"] for batch in data.take(5).as_numpy_iterator()])
    assert sorted(seen) == list(range(20)) and list(seen) != list(range(20))


def test_a_later_start_goes_on_where_the_batches_were(folder, words):
    source = source_of(folder)
    expected = list(batches(source, words).take(9).as_numpy_iterator())
    for start in (1, 4, 7):
        found = batches(source, words, start_step=start).take(2).as_numpy_iterator()
        for one, wanted in zip(found, expected[start:]):
            for name, value in wanted.items():
                np.testing.assert_array_equal(one[name], value)


def test_training_draws_one_of_several_texts_and_evaluation_takes_the_first(folder, words):
    source = source_of(folder, question=["what", "is it", "two"])
    own = [words(tf.constant([text]))[0].numpy()[0].tolist() for text in ("what", "is it", "two")]
    drawn = [
        row.tolist()
        for batch in batches(source, words).take(20).as_numpy_iterator()
        for row in batch["question"]
    ]
    counts = [drawn.count(one) for one in own]
    assert sum(counts) == 80 and min(counts) > 10
    first = all_examples(source, vocabulary=words, batch_size=7, image_size=8, fields=FIELDS)
    assert all(row.tolist() == own[0] for batch in first for row in batch["question"].numpy())


def test_evaluation_reads_each_example_once_in_order_with_what_is_kept(folder, words):
    data = all_examples(
        source_of(folder), vocabulary=words, batch_size=8, image_size=8, fields=FIELDS,
        kept=("answers", "question_id"),
    )  # fmt: skip
    found = list(data)
    assert [len(batch["image"]) for batch in found] == [8, 8, 4]
    numbers = np.concatenate([batch["number"] for batch in found])
    np.testing.assert_array_equal(numbers, range(20))
    ids = np.concatenate([batch["question_id"] for batch in found])
    np.testing.assert_array_equal(ids, np.arange(100, 120))
    answers = [row for batch in found for row in batch["answers"].to_list()]
    assert answers[3] == [b"yes"] * 10


def test_a_bad_image_is_skipped_and_counted(folder, words):
    source, bad_records = source_of(folder / "."), BadRecords(max_share=0.5)
    (folder / "7.jpg").write_bytes(b"no image")
    data = all_examples(
        source, vocabulary=words, batch_size=32, image_size=8, fields=FIELDS,
        bad_records=bad_records,
    )  # fmt: skip
    (batch,) = data
    assert set(range(20)) - set(batch["number"].numpy()) == {7}
    assert "1 " in str(bad_records.report())


def test_a_field_that_is_missing_is_named(folder, words):
    source = source_of(folder, question=None)
    assert fields_of(source) == {"image", "number", "answers", "answer_type", "question_id"}
    with pytest.raises(ValueError, match="no 'question' among"):
        batches(source, words)
    with pytest.raises(ValueError, match=r"without \['question'\]"):
        Score(source).check(tasks.model("questions"))


def test_the_score_of_questions_is_that_of_the_chosen_answers(folder, words, tmp_path):
    model, source = tasks.model("questions", image_size=8), source_of(folder)
    task = Score(source, batch_size=8)
    found = task(model, words)
    assert set(found) == {"score", "score_a", "score_b"}
    chosen = []
    for batch in all_examples(
        source, vocabulary=words, batch_size=8, image_size=8, fields=model.fields
    ):
        scores = batch.pop("scores")
        logits = model.encode(batch)["logits"]
        chosen += np.take_along_axis(
            scores.numpy(), logits.numpy().argmax(1)[:, np.newaxis], 1
        ).tolist()
    np.testing.assert_allclose(found["score"], np.mean(chosen), atol=1e-6)
    assert task.read["questions"]["examples"] == 20


def test_two_texts_are_one_with_an_end_behind_each(words):
    def pieces(text_length, *texts):
        longer = Vocabulary(words.path, text_length=text_length)
        text, valid = longer(*(tf.constant([one]) for one in texts))
        assert text.shape == valid.shape == (1, text_length)
        count = int(valid.numpy().sum())
        assert (text.numpy()[0, count:] == words.end_id).all()
        return text.numpy()[0, :count].tolist()

    first, second = "what is it one", "two"
    one, two = pieces(40, first), pieces(40, second)
    assert pieces(40, first, second) == one + two
    # What is too long loses the end of the longer text.
    room = len(one) + len(two) - 2
    assert pieces(room, first, second) == [*one[:-3], one[-1], *two]
