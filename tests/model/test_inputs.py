"""What a batch must be is said in a sentence where its values are known."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.inputs import check_valid, check_values


def batch(**changes):
    whole = {
        "image": np.zeros((2, 4, 4, 3)),
        "text": np.array([[1, 2, 3]] * 2),
        "text_valid": np.ones((2, 3), "bool"),
    }
    return {**whole, **changes}


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"image": np.full((2, 4, 4, 3), 255.0)}, ValueError, "must be uint8. .* value of 255"),
        ({"text": np.array([[1, 2, 99]] * 2)}, ValueError, "Received: ids from 1 to 99"),
        ({"text": np.array(["a dog", "a cat"])}, TypeError, "integer ids, .*dtype=string"),
        ({"text": ["a dog", "a cat"]}, TypeError, "integer ids, .*dtype=string"),
        ({"image": np.zeros((1, 4, 4, 3))}, ValueError, "as many of each. .*'image': 1, 'text': 2"),
    ],
)
def test_values_of_arrays_are_checked_before_a_graph_is_made(changes, error, message):
    check_values(batch(), 11)
    with pytest.raises(error, match=message):
        check_values(batch(**changes), 11)


def test_values_within_a_graph_are_not_looked_at():
    @tf.function
    def check(images):
        check_values({"image": images}, 11)
        return images

    assert check(tf.fill([1, 2], 255.0)).shape == (1, 2)


def test_flags_of_another_kind_or_shape_than_the_text_are_refused():
    text, flags = tf.zeros([2, 3], tf.int32), tf.ones([2, 3], tf.bool)
    check_valid(flags, text)
    with pytest.raises(TypeError, match="`text_valid` must be bool. Received: dtype=int32"):
        check_valid(text, text)
    with pytest.raises(ValueError, match=r"shape of `text`. Received: shape=\(2, 2\) for \(2, 3\)"):
        check_valid(flags[:, :2], text)
