"""Evaluating during `fit`: when, and where the numbers go."""

import keras
import numpy as np
import pytest

from limoe_tf.evaluate.callback import EvaluateCallback


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
