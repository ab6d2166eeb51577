"""Every image and caption of a data set is embedded once, in order."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.evaluate import embed


class FakeModel:
    """Embeds an image as its mean colour, a text as its first two ids; notes what it was shown."""

    def __init__(self):
        self.image_shapes, self.text_shapes = [], []

    def encode_image(self, images):
        self.image_shapes.append(tuple(images.shape))
        return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])[:, :2]

    def encode_text(self, text, text_valid):
        self.text_shapes.append(tuple(text.shape))
        return tf.cast(tf.where(text_valid, text, -1), tf.float32)[:, :2]


def letters(captions):
    """A vocabulary of bytes, four to a text."""
    text = tf.io.decode_raw(captions, tf.uint8, fixed_length=4)
    return tf.cast(text, tf.int32), text != 0


CAPTIONS = [["ab", "cd", "ef"], [], ["gh"], ["ij", "kl"], ["m"]]


def five_examples():
    return tf.data.Dataset.from_tensor_slices(
        {
            "image": np.arange(5, dtype=np.uint8)[:, None, None, None]
            * np.ones((1, 2, 2, 3), np.uint8),
            "captions": tf.ragged.constant(CAPTIONS),
            "labels": tf.ragged.constant([[1], [2, 3], [4], [5], [6, 7]], dtype=tf.int64),
            "seen": [True, False, True, True, False],
        }
    ).ragged_batch(2)


def test_every_image_and_caption_is_embedded_once_and_in_order():
    model = FakeModel()
    found = embed.embed_dataset(model, five_examples(), letters, text_batch_size=3, verbose=0)
    np.testing.assert_array_equal(found.image, [[i, i] for i in range(5)])
    # "m" has one letter, so its second id is padding.
    ids = [[ord(text[0]), ord(text[1]) if text[1:] else -1] for row in CAPTIONS for text in row]
    np.testing.assert_array_equal(found.text, ids)
    np.testing.assert_array_equal(found.image_of_text, [0, 0, 0, 2, 3, 3, 4])
    assert found.features["labels"] == [[1], [2, 3], [4], [5], [6, 7]]
    np.testing.assert_array_equal(found.features["seen"], [True, False, True, True, False])
    assert found.features["seen"].dtype == bool


def test_the_model_sees_one_shape_although_the_last_batches_are_smaller():
    model = FakeModel()
    embed.embed_dataset(model, five_examples(), letters, text_batch_size=4, verbose=0)
    assert model.image_shapes == [(2, 2, 2, 3)] * 3
    assert model.text_shapes == [(4, 4)] * 2


def test_a_set_without_captions_gives_no_text():
    images = [{"image": tf.ones((3, 2, 2, 3)), "label": tf.constant([4, 5, 6])}]
    found = embed.embed_dataset(FakeModel(), images, None, verbose=0)
    assert found.text.shape == (0, 2) and found.image_of_text.shape == (0,)
    np.testing.assert_array_equal(found.features["label"], [4, 5, 6])


def test_strings_are_embedded_alike_alone_and_in_company():
    encode = embed.text_encoder(FakeModel(), letters, batch_size=2)
    together = encode(["abc", "de", "fghi"])
    alone = np.concatenate([encode([string]) for string in ["abc", "de", "fghi"]])
    np.testing.assert_array_equal(together, alone)
    assert together.dtype == np.float32 and together.shape == (3, 2)


def test_nothing_to_embed_is_an_error():
    encode = embed.text_encoder(FakeModel(), letters)
    with pytest.raises(ValueError, match="`strings` must not be empty"):
        encode([])
    with pytest.raises(TypeError, match="`strings` must be a list"):
        encode("a red circle")
    with pytest.raises(ValueError, match="at least one batch"):
        embed.embed_dataset(FakeModel(), [], letters, verbose=0)
    with pytest.raises(ValueError, match="must have an image. Received: keys \\['text'\\]"):
        embed.embed_dataset(FakeModel(), [{"text": tf.ones(2)}], letters, verbose=0)
