"""Which answers a model of VQA should choose from: the frequent ones of its training questions."""

import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import each_once
from limoe_tf.data.captions import is_blank
from limoe_tf.data.records import Source
from limoe_tf.downstream.answer_text import normalize

_BATCH = 1024


class Frequent(NamedTuple):
    """The frequent answers.

    Attributes:
      answers: list of them, normalized, by falling number of questions and then by alphabet.
      num_questions: all questions.
      num_covered: those whose most frequent answer is among them.
    """

    answers: list[str]
    num_questions: int
    num_covered: int


def find_frequent(answers: Sequence[str], *, min_count: int) -> Frequent:
    """Finds the answers that are the most frequent ones of enough questions.

    Args:
      answers: the most frequent answer of each question.
      min_count: questions that an answer must have.

    Raises:
      ValueError: if no answer has so many.

    Reference: https://arxiv.org/abs/1708.02711, section 3.1 (an answer occurs more than 8 times).
    """
    checks.positive_int("min_count", min_count)
    counts = collections.Counter(answer for part in _parts(answers) for answer in _normal(part))
    kept = {a: n for a, n in counts.items() if n >= min_count and not is_blank(a)}
    if not kept:
        most = max(counts.values(), default=0)
        raise ValueError(
            f"`min_count` must be that of some answer, at most {most}. Received: {min_count=}"
        )
    ordered = sorted(kept, key=lambda answer: (-kept[answer], answer))
    return Frequent(ordered, len(answers), sum(kept.values()))


def most_frequent(source: Source, *, bad_records: BadRecords | None = None) -> Iterator[str]:
    """Yields the most frequent answer of each record that has any, of several the first in order.

    Args:
      source: of records with `answers` <string>[n]; images are not read.
      bad_records: BadRecords that counts the bad records.

    Raises:
      ValueError: if the source is empty, or too many records are bad.
    """
    bad_records = BadRecords() if bad_records is None else bad_records

    def load(_, record):
        return normalize(tf.reshape(source.parse(record)["answers"], [-1]))

    with bad_records.as_value_error():
        for given in each_once(source, load, bad_records).as_numpy_iterator():
            counts = collections.Counter(given.tolist())
            if counts:
                yield min(counts, key=lambda answer: (-counts[answer], answer)).decode("utf-8")


def _parts(answers):
    return (answers[first : first + _BATCH] for first in range(0, len(answers), _BATCH))


def _normal(answers):
    return [answer.decode("utf-8") for answer in normalize(list(answers)).numpy().tolist()]
