"""What the tokens of a stream are, and what the model sees of them."""

import numpy as np

from limoe_tf.analyze import kinds
from tests.shared import tiny

# Ids of the tiny vocabulary are 0 to 18; behind them are the mask, the class token and padding.
MASK, CLASS, PADDING = 19, 20, 21


def of_texts(stream, batch):
    return kinds.kinds_of(tiny.vlmoe(), stream, batch, num_tokens=6)


def test_words_are_what_is_shown_of_them_behind_a_class_token():
    batch = {
        "text": np.array([[7, 8, 9, 3, 0]]),
        "text_valid": np.array([[True, True, True, True, False]]),
    }
    assert of_texts("pair_text", batch).tolist() == [[CLASS, 7, 8, 9, 3, PADDING]]
    batch["text_shown"] = np.array([[7, MASK, 9, 3, 0]])
    assert of_texts("pair_text", batch).tolist() == [[CLASS, 7, MASK, 9, 3, PADDING]]
    lone = {f"lone_{name}": value for name, value in batch.items()}
    assert of_texts("text", lone).tolist() == [[CLASS, 7, MASK, 9, 3, PADDING]]


def test_patches_are_places_and_the_class_token_comes_behind_them():
    batch, model = tiny.masked_batch(size=2), tiny.vlmoe()
    found = kinds.kinds_of(model, "image", batch, num_tokens=17)
    assert found.tolist() == [[16, *range(16)]] * 2
    assert kinds.num_kinds(model, "pair_image") == 17
    assert kinds.num_kinds(model, "text") == PADDING + 1
    assert kinds.own_names(model) == ("(mask)", "(class)")


def test_a_model_without_class_tokens_has_places_pieces_and_padding():
    model, batch = tiny.limoe(), tiny.batch(size=2)
    assert kinds.kinds_of(model, "image", batch, num_tokens=4).tolist() == [[0, 1, 2, 3]] * 2
    found = kinds.kinds_of(model, "text", batch, num_tokens=5)
    assert found.tolist() == np.where(batch["text_valid"], batch["text"], 19).tolist()
    assert (kinds.num_kinds(model, "image"), kinds.num_kinds(model, "text")) == (4, 20)
    assert kinds.own_names(model) == ()


def test_masked_patches_are_grey_in_pictures():
    # 4 x 4 patches of 4 x 4 pixels: number 6 is in row 1 and column 2.
    batch = {"image": np.zeros([1, 16, 16, 3], np.uint8), "image_masked": np.array([[6]])}
    expected = batch["image"].copy()
    expected[0, 4:8, 8:12] = 128
    model = tiny.vlmoe()
    np.testing.assert_array_equal(kinds.shown_images(model, "pair_image", batch), expected)
    assert not batch["image"].any()
    assert not kinds.shown_images(model, "pair_image", {"image": batch["image"]}).any()
