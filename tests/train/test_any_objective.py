"""The trainer on a model with another objective: it knows no inputs, losses or modalities."""

from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.objectives.contrastive import contrastive
from limoe_tf.report import Report
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.fit import TrainableModel
from limoe_tf.train.step import differentiate
from tests.shared import tiny


class Filling(TrainableModel):
    """Fills in numbers that are hidden, from the rest of the row; large weights cost, too."""

    default_weights: ClassVar = {"filling": 1.0, "size": 0.01}
    per_replica: ClassVar = ("filling", "worst")
    summary_logs: ClassVar = ("filling", "size", "worst")

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3, name="dense")
        self.dense.build((None, 3))
        self.built = True

    def call(self, batch, training=None):
        return self.dense(tf.where(batch["hidden"], 0.0, batch["rows"]))

    def forward(self, batch, *, training):
        errors = (self(batch, training=training) - batch["rows"]) ** 2
        errors = tf.boolean_mask(errors, batch["hidden"])
        size = tf.reduce_sum(tf.convert_to_tensor(self.dense.kernel) ** 2)
        losses = {"filling": tf.reduce_mean(errors), "layer/size": size}
        return Report(losses, {"size": size, "worst": tf.reduce_max(errors)})

    def infer(self, batch):
        return {"filled": self(batch)}


def batch(size=8):
    rng = np.random.default_rng(0)
    column = rng.normal(size=(size, 1))
    rows = np.concatenate([column, 2 * column, -column], axis=1).astype("float32")
    hidden = np.zeros((size, 3), "bool")
    hidden[:, 1] = True  # As many in each row: parts of equal size weigh alike.
    return {"rows": rows, "hidden": hidden}


def compiled(num_replicas=1, **options):
    keras.utils.set_random_seed(0)
    with tiny.strategy_of(num_replicas).scope():
        model = Filling()
        model.compile(keras.optimizers.Adam(0.05), **options)
    return model


def test_a_model_with_another_objective_learns_and_is_evaluated():
    model = compiled()
    data = tf.data.Dataset.from_tensors(batch()).repeat()
    history = model.fit(data, epochs=2, steps_per_epoch=60, verbose=0).history
    shown = {"loss", "filling", "size", "worst", "gradient_norm", "learning_rate", "skipped"}
    assert set(history) == shown
    assert history["filling"][-1] < 0.1 * history["filling"][0]
    found = model.evaluate(data, steps=1, verbose=0, return_dict=True)
    assert set(found) == {"loss", "filling", "size", "worst"}
    np.testing.assert_allclose(found["loss"], found["filling"] + 0.01 * found["size"], rtol=1e-6)
    assert model.predict(batch(), verbose=0)["filled"].shape == (8, 3)


def test_replicas_train_it_as_one_device():
    results = []
    for count in (1, 2):
        model = compiled(count, detailed_logs=True)
        data = tf.data.Dataset.from_tensors(batch()).repeat()
        history = model.fit(data, epochs=3, steps_per_epoch=1, verbose=0).history
        results.append((history, model.dense.kernel.numpy()))
    (one, kernel), (two, other) = results
    np.testing.assert_allclose(other, kernel, rtol=1e-5)
    for name in ("loss", "filling", "layer/size", "gradient_norm"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, err_msg=name)


def test_its_gradients_are_those_of_the_weighted_sum():
    model, inputs = compiled(), {name: tf.constant(value) for name, value in batch().items()}
    _, found = differentiate(model, inputs, {"filling": 2.0, "size": 0.5})
    with tf.GradientTape() as tape:
        report = model.forward(inputs, training=True)
        loss = 2.0 * report.losses["filling"] + 0.5 * report.losses["layer/size"]
    expected = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for mine, theirs in zip(found, expected):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_its_checkpoints_hold_and_give_back_its_state(tmp_path):
    model = compiled()
    model.fit(tf.data.Dataset.from_tensors(batch()), verbose=0)
    Checkpoints(model, str(tmp_path)).save()
    other = compiled()
    other.dense.kernel.assign(tf.zeros((3, 3)))
    assert Checkpoints(other, str(tmp_path)).restore_latest() == 1
    np.testing.assert_array_equal(other.dense.kernel.numpy(), model.dense.kernel.numpy())


def test_what_belongs_to_another_objective_is_refused():
    with pytest.raises(ValueError, match="`num_slices` is for models that contrast .*num_slices=2"):
        compiled(num_slices=2)
    with pytest.raises(ValueError, match=r"among \['filling', 'size'\]. Received: \['z'\]"):
        compiled(loss_weights={"z": 1.0})


@pytest.mark.parametrize("make", [tiny.limoe, tiny.two_tower])
def test_forward_of_image_text_models_is_the_model_and_its_contrast(make):
    model, inputs = make(), tiny.tensors()
    model.compile("sgd")
    report = model.forward(inputs, training=False)
    embeddings, of_layers = model(inputs, training=False)
    expected = contrastive(*(embeddings[name] for name in ("image", "text", "logit_scale")))
    assert list(report.losses) == ["contrastive", *of_layers.losses]
    assert float(report.losses["contrastive"]) == float(expected.loss)
    assert float(report.metrics["accuracy"]) == float(expected.accuracy)
    assert float(report.metrics["temperature"]) == float(1 / embeddings["logit_scale"])
    for name, value in of_layers.losses.items():
        assert float(report.losses[name]) == float(value)
