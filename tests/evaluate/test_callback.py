"""Embedding a data set, evaluating during `fit`, and what becomes of the numbers."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.evaluate import embed, results
from limoe_tf.evaluate.callback import EvaluateCallback


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


def small_model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def fit(model, callbacks, **kwargs):
    """Five steps an epoch."""
    inputs = np.zeros((10, 1), np.float32)
    return model.fit(inputs, inputs, batch_size=2, verbose=0, callbacks=callbacks, **kwargs)


def steps_taken(model):
    return {"steps": int(model.optimizer.iterations), "nested": {"half": np.float32(0.5)}}


class Notebook(keras.callbacks.Callback):
    """Notes the steps after which the numbers were in the logs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        if "zero_shot/steps" in logs:
            self.seen.append(logs["zero_shot/steps"])


def test_the_numbers_of_every_second_epoch_reach_the_history():
    callback = EvaluateCallback({"zero_shot": steps_taken}, every_epochs=2)
    history = fit(small_model(), [callback], epochs=5).history
    assert history["zero_shot/steps"] == [10.0, 20.0]
    assert history["zero_shot/nested/half"] == [0.5, 0.5]
    assert len(history["loss"]) == 5


def test_evaluation_by_steps_counts_across_epochs_and_calls_of_fit():
    model, notebook = small_model(), Notebook()
    callback = EvaluateCallback({"zero_shot": steps_taken}, every_steps=3)
    history = fit(model, [callback, notebook], epochs=2).history
    assert notebook.seen == [3.0, 6.0, 9.0]
    # The epochs end after steps 5 and 10 with the latest numbers.
    assert history["zero_shot/steps"] == [3.0, 9.0]
    fit(model, [callback, notebook], epochs=1)
    assert notebook.seen == [3.0, 6.0, 9.0, 12.0, 15.0]


def test_several_steps_an_execution_skip_no_evaluation():
    model, notebook = small_model(), Notebook()
    model.compile("sgd", "mse", steps_per_execution=2)
    callback = EvaluateCallback({"zero_shot": steps_taken}, every_steps=3)
    fit(model, [callback, notebook], epochs=1)
    # Executions end after steps 2, 4 and 5; step 3 is first noticed after step 4.
    assert notebook.seen == [4.0]


def test_a_task_that_fails_is_warned_of_and_the_other_numbers_are_logged():
    tasks = {"broken": lambda model: 1 / 0, "zero_shot": steps_taken}
    with pytest.warns(UserWarning, match="Task 'broken' failed: division by zero"):
        history = fit(small_model(), [EvaluateCallback(tasks, every_epochs=1)], epochs=2).history
    assert history["zero_shot/steps"] == [5.0, 10.0] and len(history["loss"]) == 2


def test_evaluation_by_epochs_does_not_make_keras_wait_for_every_step():
    hook = EvaluateCallback({}, every_epochs=1).on_train_batch_end
    assert getattr(hook, "_is_default", False)


@pytest.mark.parametrize(
    "tasks, when, kind, message",
    [
        ({}, {}, ValueError, "Exactly one of"),
        ({}, {"every_epochs": 1, "every_steps": 1}, ValueError, "Exactly one of"),
        ({}, {"every_epochs": 0}, ValueError, "`every_epochs` must be at least 1"),
        ({}, {"every_steps": 0}, ValueError, "`every_steps` must be at least 1"),
        ({"zero_shot": 3}, {"every_epochs": 1}, TypeError, "zero_shot=3"),
    ],
)
def test_a_callback_that_could_not_run_is_refused(tasks, when, kind, message):
    with pytest.raises(kind, match=message):
        EvaluateCallback(tasks, **when)


RESULTS = {
    "zero_shot": {"seen": np.float32(0.5), "unseen": 1 / 3},
    "retrieval": {"text_to_image": {"recall_at_1": 0.00012345}},
    "parameters": 1234567,
}


def test_results_become_a_rounded_table():
    assert results.markdown_table(RESULTS).splitlines() == [
        "| result                              |    value |",
        "|-------------------------------------|---------:|",
        "| zero_shot/seen                      |   0.5000 |",
        "| zero_shot/unseen                    |   0.3333 |",
        "| retrieval/text_to_image/recall_at_1 | 0.000123 |",
        "| parameters                          |  1234567 |",
    ]


def test_results_become_json_in_full_and_leave_nothing_else(tmp_path):
    path = tmp_path / "runs" / "results.json"
    results.write_json(path, {"old": 1})
    results.write_json(path, RESULTS)
    assert json.loads(path.read_text()) == RESULTS
    assert os.listdir(path.parent) == ["results.json"]


def test_results_that_json_cannot_hold_leave_the_old_file_alone(tmp_path):
    path = tmp_path / "results.json"
    results.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        results.write_json(path, {"accuracy": float("nan")})
    with pytest.raises(TypeError, match="must hold numbers, strings and lists"):
        results.write_json(path, {"model": object()})
    assert json.loads(path.read_text()) == {"old": 1}


def test_results_that_share_a_name_are_an_error():
    with pytest.raises(ValueError, match="'a/b' twice"):
        results.flatten({"a/b": 1, "a": {"b": 2}})
    with pytest.raises(TypeError, match="Received: key 1"):
        results.flatten({1: 2.0})
