"""Clipping is Keras' own, by the norms of the whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.train import gradients, step
from limoe_tf.train.adafactor_update import Scaled
from limoe_tf.train.optimizer import Adafactor, AdamW
from tests.shared import tiny

PATHS = ["dense/kernel", "moe/experts/kernel_in", "moe/experts/bias_in"]
VALUES = [
    np.array([[3.0, -4.0]], "float32"),
    np.array([[1.0, 2.0], [2.0, 0.0]], "float32"),
    np.array([0.0, 12.0], "float32"),
]


BOUNDS = [{"clipnorm": 4.0}, {"global_clipnorm": 6.5}, {"clipvalue": 1.5}, {}, {"clipnorm": 99.0}]


@pytest.mark.parametrize("bound", BOUNDS)
def test_gradients_are_clipped_as_keras_does(bound):
    found = gradients.clipped([tf.constant(v) for v in VALUES], PATHS, **bound)
    expected = keras.optimizers.SGD(**bound)._clip_gradients([tf.constant(v) for v in VALUES])
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_norms_are_those_of_each_variable():
    # 3-4-5; 1 + 4 + 4 = 9; 12. Together 5-12-13 and 3: the root of 178.
    found = gradients.norms([tf.constant(v) for v in VALUES], PATHS)
    np.testing.assert_allclose(found, [5, 3, 12], rtol=1e-6)
    clipped = gradients.clipped([tf.constant(v) for v in VALUES], PATHS, global_clipnorm=1.0)
    np.testing.assert_allclose(clipped[2][1], 12 / 178**0.5, rtol=1e-6)


def test_an_optimizer_needs_every_gradient_to_clip_by_their_norm():
    variables = [keras.Variable(value) for value in VALUES]
    optimizer = gradients.with_reduced_gradients(keras.optimizers.SGD(global_clipnorm=1.0))
    optimizer.build(variables)
    with pytest.raises(ValueError, match="2 gradients for 3 variables"):
        optimizer.apply([tf.constant(v) for v in VALUES[:2]], variables[:2])


def test_an_optimizer_that_takes_the_loss_for_scaled_is_refused():
    with pytest.raises(ValueError, match="loss_scale_factor=4.0"):
        gradients.with_reduced_gradients(keras.optimizers.SGD(loss_scale_factor=4.0))
    # Keras wraps the optimizer of such a model in one that divides the gradients.
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    with pytest.raises(ValueError, match='policy not be "mixed_float16".*LossScaleOptimizer'):
        tiny.limoe(depth=1).compile(Adafactor(0.01))


def test_an_optimizer_that_accumulates_gradients_is_refused():
    optimizer = AdamW(0.1, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"`compile\(num_slices=.*gradient_accumulation_steps=2"):
        tiny.limoe(depth=1, plan=("dense",)).compile(optimizer)


GLOBALLY = {"global_clipnorm": 6.5}


@pytest.mark.parametrize(
    "optimizer, options, saves_passes",
    [
        (Adafactor, GLOBALLY, True),
        (Adafactor, {"global_clipnorm": 99.0}, True),
        (Adafactor, {**GLOBALLY, "use_ema": True}, True),
        (Adafactor, {"clipnorm": 4.0}, False),
        (Adafactor, {}, False),
        (AdamW, GLOBALLY, False),
    ],
)
def test_a_norm_that_is_known_changes_nothing_but_the_way(optimizer, options, saves_passes):
    found = [tf.constant(v) for v in VALUES]
    norm = tf.norm(gradients.norms(found, PATHS))

    def after_two_steps(handed_over):
        variables = [keras.Variable(value) for value in VALUES]
        chosen = gradients.with_reduced_gradients(optimizer(0.1, **options))
        for _ in range(2):
            handed = handed_over(chosen)
            chosen.apply(handed, variables)
        return handed, [*variables, *chosen.variables]

    handed, result = after_two_steps(lambda chosen: gradients.scaled(found, norm, chosen))
    assert {type(gradient) is Scaled for gradient in handed} == {saves_passes}
    for value, wanted in zip(result, after_two_steps(lambda _: found)[1], strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_a_step_clips_by_the_norm_it_has_measured():
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        models.append(tiny.limoe(depth=1))
        models[-1].compile(Adafactor(0.01, global_clipnorm=0.1), detailed_logs=True)
    one, other = models
    logs = one.train_step(tiny.tensors(8))
    assert float(logs["gradient_norm"]) > 0.2
    _, found = step.differentiate(other, tiny.tensors(8), other.loss_weights)
    other.optimizer.apply(found, other.trainable_variables)
    for value, wanted in zip(
        [*one.variables, *one.optimizer.variables],
        [*other.variables, *other.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-9, err_msg=wanted.path)
