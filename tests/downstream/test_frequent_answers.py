import pytest

from limoe_tf.data import sources
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.downstream.frequent_answers import find_frequent, most_frequent
from tests.shared.record_files import example, write


def test_answers_are_ordered_by_falling_count_and_alphabet():
    # In normal form: 3 x "cat", 2 x "2", 2 x "blue", 1 x "dog", and "a" is nothing.
    answers = ["Cat", "blue", "two", "the cat.", "2", "dog", "cat", "Blue!", "a", "A"]
    found = find_frequent(answers, min_count=2)
    assert found == (["cat", "2", "blue"], 10, 7)
    assert find_frequent(answers, min_count=1).answers == ["cat", "2", "blue", "dog"]
    # More than are normalized together.
    assert find_frequent(answers * 300, min_count=600) == (["cat", "2", "blue"], 3000, 2100)


def test_without_an_answer_that_is_frequent_enough_there_is_an_error():
    with pytest.raises(ValueError, match="some answer, at most 2. Received: min_count=3"):
        find_frequent(["yes", "Yes", "no"], min_count=3)
    with pytest.raises(ValueError, match="at most 0"):
        find_frequent([], min_count=1)


def test_of_each_record_the_most_frequent_answer_counts(tmp_path):
    given = [[b"Yes", b"no", b"yes."], [b"b", b"a cat", b"B", b"the Cat"], [b"no"]]
    records = [example(answers=answers) for answers in given]
    records += [b"garbage", example(question=b"what?")]
    path = write(tmp_path / "a", records)
    source = sources.TfrecordSource(path, image=None, captions=None, fields={"answers": "answers"})
    bad_records = BadRecords()
    found = list(most_frequent(source, bad_records=bad_records))
    # "b" and "cat" are twice there.
    assert found == ["yes", "b", "no"]
    assert bad_records.count == 1
