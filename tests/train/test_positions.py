"""Tables of positions for other numbers of tokens: by hand, and as TensorFlow resizes images."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.train.positions import resized_grid, resized_line


def draw(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype("float32")


def test_two_positions_made_four_by_hand():
    # The new ones lie at -0.25, 0.25, 0.75 and 1.25. Keys' cubic with a = -0.5 is
    # 1.5 x^3 - 2.5 x^2 + 1 up to a distance of 1, -0.5 x^3 + 2.5 x^2 - 4 x + 2 up to 2: at 0.25,
    # 0.75 and 1.25 that is 111/128, 29/128 and -9/128. The first gets (111 a - 9 b) / 102, the
    # second (111 a + 29 b) / 140, and the others mirror them.
    found = resized_line(np.array([[0.0], [1.0]], "float32"), 4)
    np.testing.assert_allclose(found[:, 0], [-9 / 102, 29 / 140, 111 / 140, 111 / 102], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("old, new", [(4, 6), (7, 5), (3, 8), (2, 3), (14, 24)])
def test_a_grid_is_resized_as_tensorflow_resizes_an_image(old, new):
    table = draw(old * old, 5)
    image = tf.reshape(table, [old, old, 5])
    expected = tf.image.resize(image, [new, new], "bicubic", antialias=False)
    found = resized_grid(table, new * new)
    np.testing.assert_allclose(found, tf.reshape(expected, [-1, 5]), atol=2e-3)
    assert found.dtype == np.float32


@pytest.mark.parametrize("resized, size, larger", [(resized_grid, 16, 49), (resized_line, 7, 11)])
def test_the_same_number_is_the_same_table_and_equal_positions_stay_equal(resized, size, larger):
    table = draw(size, 3)
    np.testing.assert_array_equal(resized(table, size), table)
    np.testing.assert_allclose(resized(np.full([size, 3], 2.5), larger), np.full([larger, 3], 2.5))


def test_the_position_of_a_class_token_stays():
    table = draw(17, 3)
    found = resized_grid(table, 65)
    np.testing.assert_array_equal(found[0], table[0])
    np.testing.assert_array_equal(found[1:], resized_grid(table[1:], 64))
    with pytest.raises(ValueError, match="a class token in both models.* 17 and 64"):
        resized_grid(table, 64)


def test_between_the_edges_a_slope_stays_a_slope():
    rows = np.arange(8.0)[:, np.newaxis]
    np.testing.assert_allclose(resized_line(rows, 16)[3:13, 0], np.arange(3, 13) / 2 - 0.25)


def test_a_shorter_text_has_the_first_positions():
    table = draw(7, 3)
    np.testing.assert_array_equal(resized_line(table, 4), table[:4])


def test_a_number_that_makes_no_square_is_refused():
    for old, new in ((12, 16), (16, 12)):
        with pytest.raises(ValueError, match="a square of patches. Received: 12"):
            resized_grid(draw(old, 2), new)
