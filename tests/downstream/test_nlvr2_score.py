import numpy as np
import pytest

from limoe_tf.downstream.nlvr2_score import nlvr2_score


def test_a_statement_is_consistent_if_it_is_judged_rightly_on_all_pairs():
    # Statements (1, 0), (1, 1), (2, 0): the first on three pairs, one wrong; the others all right.
    identifiers = ["dev-1-0-0", "dev-1-1-0", b"dev-1-3-0", "dev-1-0-1", "dev-2-2-0", "dev-2-0-0"]
    found = nlvr2_score(identifiers, [1, 0, 1, 1, 0, 0], np.array([1, 1, 1, 1, 0, 0]))
    assert found == {"accuracy": pytest.approx(5 / 6), "consistency": pytest.approx(2 / 3)}


def test_a_right_judgment_does_not_mend_a_wrong_one():
    found = nlvr2_score(["dev-1-0-0", "dev-1-1-0"], [1, 1], [0, 1])
    assert found == {"accuracy": 0.5, "consistency": 0}


def test_both_are_those_of_a_loop_over_random_judgments():
    draw = np.random.default_rng(0)
    keys = [(a, b, c) for a in range(40) for b in range(4) for c in range(2)]
    labels, predicted = draw.integers(0, 2, [2, len(keys)])
    predicted = np.where(draw.random(len(keys)) < 0.7, labels, predicted)
    all_right = [
        all(labels[i] == predicted[i] for i, key in enumerate(keys) if key[::2] == (a, c))
        for a in range(40)
        for c in range(2)
    ]
    found = nlvr2_score([f"test1-{a}-{b}-{c}" for a, b, c in keys], labels, predicted)
    assert found["consistency"] == pytest.approx(np.mean(all_right)) and 0 < np.mean(all_right) < 1
    assert found["accuracy"] == pytest.approx(np.mean(labels == predicted))


def test_other_arguments_are_errors():
    with pytest.raises(ValueError, match="of the same examples, at least one. Received: 1 ident"):
        nlvr2_score(["dev-1-0-0"], [1, 0], [1, 0])
    with pytest.raises(ValueError, match="at least one"):
        nlvr2_score([], [], [])
    with pytest.raises(ValueError, match="split-set-pair-statement. Received: 'dev-1'"):
        nlvr2_score(["dev-1"], [1], [1])
