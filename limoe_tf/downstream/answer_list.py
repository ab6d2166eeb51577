"""The answers that a model of VQA chooses from, and what each of them scores for a question."""

import os
from collections.abc import Sequence

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data.captions import is_blank
from limoe_tf.downstream.answer_text import normalize

# Annotators who have to agree for the full score.
_ENOUGH = 3


class AnswerList:
    """A model's answers, compared as `answer_text.normalize` makes them.

    Args:
      answers: A texts, in the order of the model's logits.

    Attributes:
      answers: list of them.

    Raises:
      ValueError: if there are none, one is blank, or two are alike.
      TypeError: if they are not a list of texts.
    """

    def __init__(self, answers: Sequence[str]):
        if isinstance(answers, str) or not all(isinstance(one, str) for one in answers):
            raise TypeError(f"`answers` must be a list of texts. Received: answers={answers!r}")
        if not answers:
            raise ValueError("`answers` must hold at least one. Received: none")
        keys = [key.decode("utf-8") for key in normalize(list(answers)).numpy().tolist()]
        numbers = {}
        for number, key in enumerate(keys):
            if is_blank(key):
                raise ValueError(f"An answer must not be blank. Received: {answers[number]!r}")
            if key in numbers:
                raise ValueError(
                    "`answers` must differ when they are compared. "
                    f"Received: {answers[numbers[key]]!r} and {answers[number]!r}"
                )
            numbers[key] = number
        self.answers = list(answers)
        with tf.init_scope():
            self._numbers = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(keys, tf.range(len(keys), dtype=tf.int64)), -1
            )

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "AnswerList":
        """Reads a text file with one answer a line, as `tpu_jobs.build_answers` writes it.

        Raises:
          ValueError: if there is no such file, or its answers are not a list as above.
        """
        with tf.io.gfile.GFile(checks.existing_file("path", path), "rb") as file:
            lines = file.read().decode("utf-8-sig").splitlines()
        return cls([line.strip() for line in lines if not is_blank(line)])

    def __len__(self):
        return len(self.answers)

    def indices(self, texts: tf.Tensor) -> tf.Tensor:
        """Returns <int64>[...], the number of each answer <string>[...] in the list, else -1."""
        return self._numbers.lookup(normalize(texts))

    def scores(self, given: tf.Tensor) -> tf.Tensor:
        """Returns what each answer of the list scores for a question; also in a graph.

        These are the soft targets of training, too: of ten annotators, 1, 2, 3 and more who give
        an answer make it 0.3, 0.6, 0.9 and 1.

        Args:
          given: <string>[n] the answers of the annotators. Those not in the list score for none.

        Returns:
          <float32>[A], see `score`.
        """
        given = tf.reshape(given, [-1])
        ones = tf.ones(tf.shape(given), tf.float32)
        counts = tf.math.unsorted_segment_sum(ones, self.indices(given), len(self.answers))
        return score(counts, tf.size(given))


def score(counts: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Returns the official score of answers that some of the annotators have given.

    Each annotator in turn is left out, and min(1, matches / 3) of the others is averaged. The
    definition is for ten. Of four or more it is taken as it stands; of two and three all the others
    have to match, and the single answer of one scores 1, so that up to four annotators an answer
    scores the share of those who give it.

    Args:
      counts: <int or float>[...] annotators who give an answer.
      number: <int or float>[...] n, all annotators of the question.

    Returns:
      <float32>[...]; 0 where nobody has answered.

    Reference: https://visualqa.org/evaluation.html.
    """
    counts, number = tf.cast(counts, tf.float32), tf.cast(number, tf.float32)
    enough = tf.clip_by_value(number - 1, 1, _ENOUGH)
    without_one_match = tf.minimum(1.0, (counts - 1) / enough)
    without_another = tf.minimum(1.0, counts / enough)
    total = counts * without_one_match + (number - counts) * without_another
    return tf.where(number == 1, counts, tf.math.divide_no_nan(total, number))
