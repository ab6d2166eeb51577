import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.downstream import vqa_score
from limoe_tf.downstream.answer_list import AnswerList, score
from limoe_tf.downstream.answer_text import normalize
from limoe_tf.downstream.vqa_score import VqaScore

MARKS = list(';/[]"{}()=+\\_-><@`,?!')
NUMBERS = "zero one two three four five six seven eight nine ten"
DIGITS = {word: number for number, word in enumerate(NUMBERS.split())}
WHOLE = {
    "dont": "don't",
    "its": "its",
    "couldnt've": "couldn't've",
    "couldn'tve": "couldn't've",
    "yalld've": "yalld've",
    "y'alld've": "y'all'd've",
    "oclock": "o'clock",
    "isnt": "isn't",
    "thats": "that's",
    "were": "were",
    "twas": "'twas",
}


def plain_normalize(answer):
    """The published definition, letter by letter."""
    text = answer.replace("\n", " ").replace("\t", " ").strip().lower()
    between_digits = any(
        text[i] == "," and text[i - 1].isdigit() and text[i + 1].isdigit()
        for i in range(1, len(text) - 1)
    )
    found = text
    for mark in MARKS:
        dropped = between_digits or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if dropped else " ")
    kept = [
        letter
        for i, letter in enumerate(found)
        if letter != "." or (i + 1 < len(found) and found[i + 1].isdigit())
    ]
    words = []
    for word in "".join(kept).split():
        word = "0" if word == "none" else str(DIGITS.get(word, word))
        if word not in ("a", "an", "the"):
            words.append(WHOLE.get(word, word))
    return " ".join(words)


def plain_score(predicted, given):
    """The ten sets of nine: min(1, matches / 3) in each, and the mean."""
    predicted, given = plain_normalize(predicted), list(map(plain_normalize, given))
    found = []
    for left_out in range(10):
        others = given[:left_out] + given[left_out + 1 :]
        found.append(min(1, others.count(predicted) / 3))
    return sum(found) / 10


POOL = (
    """
Yes|yes.|NO|no|the dog|a Dog|dog|dogs|two|2|2.0|1,000|1000|one thousand|none|0|3:30|3:30 pm
dont|don't|isnt it|couldnt've|couldn'tve|T-shirt|t shirt|T - shirt|red/white|red and white
St. Louis|st louis|$3.50|3.50.|girl's|girls|an apple (green)|apple green|What?|what|ten|10
oclock|9 oclock|hot dog\tbun|a|the|...|.5|twas|"stop"|stop|black, white|black,white|@home
1,000 - 2,000|thats,thats|its|größer|GRÖSSER|y'alld've|yalld've|were
""".strip()
    .replace("\n", "|")
    .split("|")
)


def annotations(count=200):
    """Questions whose ten annotators agree more or less, with ties; and an answer to each."""
    draw = random.Random(3)
    for _ in range(count):
        given = draw.choices(draw.sample(POOL, draw.randint(1, 5)), k=10)
        predicted = draw.choice([draw.choice(given), draw.choice(POOL)])
        yield predicted, given, draw.choice(("yes/no", "number", "other"))


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("  The  Dog. ", "dog"),
        ("Two", "2"),
        ("none", "0"),
        ("an A", ""),
        # No space is put between the digits; without any, a comma becomes one.
        ("1,000", "1000"),
        ("red,white", "red white"),
        # The comma has a space beside it: both are dropped.
        ("red, white,blue", "red whiteblue"),
        ("3.5", "3.5"),
        ("3.5. St.", "3.5 st"),
        ("1.2.3", "1.2.3"),
        ("..5", ".5"),
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        ("3:30 girl's", "3:30 girl's"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("its hell", "its hell"),
        ("[\\x]^y", "x ^y"),
        ("tie\nclip\v.", "tie clip"),
        ("", ""),
    ],
)
def test_answers_are_normalized(answer, expected):
    assert normalize([answer]).numpy()[0].decode() == expected


def test_normal_forms_are_those_of_the_published_definition_and_stay():
    draw = random.Random(0)
    letters = [*"ab 1.,'?-/ \n", " the ", "one", "dont"]
    texts = POOL + ["".join(draw.choices(letters, k=draw.randint(0, 9))) for _ in range(2000)]
    found = [text.decode() for text in normalize(texts).numpy()]
    assert found == [plain_normalize(text) for text in texts]
    grid = normalize(tf.reshape(texts[:12], [3, 2, 2])).numpy()
    assert grid.shape == (3, 2, 2) and grid[2, 1, 1].decode() == found[11]


def test_scores_of_200_questions_are_those_of_the_published_definition():
    predicted, given, kinds = zip(*annotations())
    expected = np.array([plain_score(*one) for one in zip(predicted, given)])
    assert len({round(one, 3) for one in expected}) == 5
    found = vqa_score.vqa_score(predicted, given, kinds)
    assert set(found) == {"overall", "yes/no", "number", "other"}
    assert found["overall"] == pytest.approx(expected.mean(), abs=1e-6)
    for kind in ("yes/no", "number", "other"):
        mine = [one for one, other in zip(expected, kinds) if other == kind]
        assert found[kind] == pytest.approx(np.mean(mine), abs=1e-6)
    in_bytes = [[answer.encode() for answer in answers] for answers in given]
    assert vqa_score.vqa_score(predicted, in_bytes, [kind.encode() for kind in kinds]) == found


def test_the_scores_of_a_list_of_answers_are_those_of_each_of_them():
    # One of each normal form, and one that nobody gives.
    forms = {plain_normalize(one): one for one in POOL if plain_normalize(one)}
    answers = AnswerList([*forms.values(), "zebra"])
    _, given, _ = zip(*annotations(40))
    rows = tf.data.Dataset.from_tensor_slices(list(given)).map(answers.scores).batch(40)
    (found,) = rows.as_numpy_iterator()
    assert found.dtype == np.float32 and found.shape == (40, len(answers))
    expected = [[plain_score(one, ten) for one in answers.answers] for ten in given]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[:, -1].max() == 0


def test_answers_that_are_not_in_the_list_score_for_none():
    answers = AnswerList(["yes", "no"])
    found = answers.scores(["Yes", "yes.", "maybe", *["perhaps"] * 7])
    np.testing.assert_allclose(found, [0.6, 0])
    assert answers.indices([["NO", "maybe"]]).numpy().tolist() == [[1, -1]]
    assert answers.scores(tf.zeros([0], tf.string)).numpy().tolist() == [0, 0]


def test_ten_annotators_make_the_soft_targets_of_training():
    # One match: in 9 of 10 sets 1/3. Two: 2 x 1/3 + 8 x 2/3 = 6. Three: 3 x 2/3 + 7 = 9.
    np.testing.assert_allclose(score(np.arange(11), 10), [0, 0.3, 0.6, 0.9] + [1] * 7, atol=1e-6)


def test_of_up_to_four_annotators_the_share_counts():
    for number in range(1, 5):
        counts = np.arange(number + 1)
        np.testing.assert_allclose(score(counts, number), counts / number, atol=1e-6)
    # Of five, one match: in 4 of 5 sets 1/3.
    np.testing.assert_allclose(score(1, 5), 4 / 15, atol=1e-6)


def test_the_metric_averages_the_scores_of_the_largest_logits():
    metric = VqaScore()
    scores = np.array([[0.3, 1, 0], [0, 0.6, 0.9]], "float32")
    metric.update_state(scores, [[3.0, 2, 1], [0, 0, 4]])
    metric.update_state(scores[:1], tf.constant([[0.0, 5, 1]], tf.bfloat16))
    assert float(metric.result()) == pytest.approx((0.3 + 0.9 + 1) / 3)
    metric.reset_state()
    metric.update_state(scores, [[3.0, 2, 1], [0, 0, 4]], sample_weight=[1.0, 0])
    assert float(metric.result()) == pytest.approx(0.3)


def test_the_metric_can_be_compiled_and_restored():
    metric = keras.metrics.deserialize(keras.metrics.serialize(VqaScore()))
    assert isinstance(metric, VqaScore) and metric.name == "vqa_score"
    model = keras.Sequential([keras.Input([3]), keras.layers.Activation("linear")])
    model.compile(loss="mse", metrics=[metric])
    logits, scores = np.eye(3, dtype="float32"), np.full([3, 3], 0.6, "float32")
    assert model.evaluate(logits, scores, verbose=0)[1] == pytest.approx(0.6)


def test_scores_and_logits_of_different_shapes_are_an_error():
    with pytest.raises(
        ValueError, match=r"of one shape, \[B, A\]. Received: \(2, 3\) and \(2, 4\)"
    ):
        VqaScore().update_state(np.zeros([2, 3]), np.zeros([2, 4]))


def test_questions_of_different_number_are_an_error():
    with pytest.raises(ValueError, match="of the same questions, at least one. Received: of 1, 2"):
        vqa_score.vqa_score(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="at least one. Received: of 0"):
        vqa_score.vqa_score([], [])
    assert vqa_score.vqa_score(["a"], [[]]) == {"overall": 0}


def test_results_are_written_as_the_server_takes_them(tmp_path):
    path = tmp_path / "results" / "test.json"
    vqa_score.write_result_file(path, np.array([7, 3]), ["größer", b"no"])
    assert json.loads(path.read_text("utf-8")) == [
        {"question_id": 7, "answer": "größer"},
        {"question_id": 3, "answer": "no"},
    ]
    vqa_score.write_result_file(path, [], [])
    assert json.loads(path.read_text("utf-8")) == []
    with pytest.raises(ValueError, match="one answer for each question. Received: 1 answers, 2"):
        vqa_score.write_result_file(path, [1, 2], ["a"])
    with pytest.raises(ValueError, match="must be distinct. Received: 2 more than once"):
        vqa_score.write_result_file(path, [1, 2, 2], ["a", "b", "c"])


def test_an_answer_list_is_read_from_a_file(tmp_path):
    path = tmp_path / "answers.txt"
    path.write_bytes("\ufeffyes\r\nno\n\n2\n".encode())
    assert AnswerList.from_file(path).answers == ["yes", "no", "2"]
    with pytest.raises(ValueError, match="`path` must be an existing file"):
        AnswerList.from_file(tmp_path / "none.txt")


@pytest.mark.parametrize(
    "answers, error, message",
    [
        ("yes", TypeError, "must be a list of texts"),
        ([1], TypeError, "must be a list of texts"),
        ([], ValueError, "must hold at least one"),
        (["a", "b"], ValueError, "must not be blank. Received: 'a'"),
        (["dog", "the Dog."], ValueError, "Received: 'dog' and 'the Dog.'"),
    ],
)
def test_other_lists_are_errors(answers, error, message):
    with pytest.raises(error, match=message):
        AnswerList(answers)
