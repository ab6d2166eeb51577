"""Keras' fit, evaluate and predict: names, numbers, and one replica against several."""

import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.contrastive import ContrastiveModel
from limoe_tf.objectives.total import DEFAULT_WEIGHTS
from limoe_tf.train.optimizer import Adafactor
from limoe_tf.train.step import forward
from tests.shared import tiny

SUMMARY = ("loss", *ContrastiveModel.summary_logs, "gradient_norm", "learning_rate")
SPARSE = {"depth": 1, "plan": ("sparse",)}


def limoe(**changes):
    """One sparse block, with groups of two examples on any number of replicas."""
    return tiny.limoe(**{**SPARSE, "group_size": 2, **changes})


def two_tower():
    return tiny.two_tower(depth=1)


def sigmoid():
    """One dense block, with the sigmoid loss."""
    return tiny.limoe(depth=1, plan=("dense",), contrastive="sigmoid", logit_bias=-2.0)


def adafactor():
    return Adafactor(0.01, weight_decay=0.001, global_clipnorm=0.1)


def adamw():
    # A large epsilon: without it no update would depend on the size of the gradient.
    return keras.optimizers.AdamW(0.01, epsilon=0.001, global_clipnorm=0.1)


def trained(make, optimizer, *, num_replicas=1, **options):
    """The numbers of each of three steps, and the weights after them."""
    keras.utils.set_random_seed(0)
    with tiny.strategy_of(num_replicas).scope():
        model = make()
        model.compile(optimizer(), detailed_logs=True, **options)
    history = model.fit(
        tiny.dataset(3), epochs=3, steps_per_epoch=1, shuffle=False, verbose=0
    ).history
    weights = {variable.path.split("/", 1)[1]: variable.numpy() for variable in model.weights}
    return history, weights


on_one_device = functools.cache(trained)


def assert_same_training(found, expected):
    """Numbers and weights differ by less than a hundredth of what a step of 0.01 changes."""
    for part, wanted in zip(found, expected):
        assert set(part) == set(wanted)
        for name, values in wanted.items():
            # A bias of the keys adds the same to all scores of a query, which no softmax can see:
            # its gradient is nothing but rounding.
            if not name.endswith("key/bias"):
                np.testing.assert_allclose(part[name], values, 1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "num_replicas, make, optimizer",
    [(2, limoe, adafactor), (4, limoe, adamw), (2, two_tower, adamw)],
)
def test_several_replicas_train_as_one(num_replicas, make, optimizer):
    history, weights = trained(make, optimizer, num_replicas=num_replicas)
    assert_same_training((history, weights), on_one_device(make, optimizer))
    assert min(history["gradient_norm"]) > 0.1  # All steps were clipped, by the global norm.
    assert all(value == 3 for name, value in weights.items() if name.endswith("draws"))


def test_several_replicas_train_as_one_with_the_sigmoid_loss():
    found = trained(sigmoid, adamw, num_replicas=2, same_text_positives=True)
    assert_same_training(found, on_one_device(sigmoid, adamw, same_text_positives=True))
    assert len(set(found[0]["logit_bias"])) == 3  # It is learned.


def after_seven_steps(make, num_replicas, steps_per_execution):
    """The means that `fit` returns, the weights, and how many calls it took."""
    keras.utils.set_random_seed(0)
    with tiny.strategy_of(num_replicas).scope():
        model = make()
        model.compile(adafactor(), steps_per_execution=steps_per_execution)
    calls = []
    counting = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: calls.append(batch)
    )
    history = model.fit(tiny.dataset(7), epochs=1, verbose=0, callbacks=[counting]).history
    assert int(model.optimizer.iterations.numpy()) == 7
    weights = {v.path.split("/", 1)[1]: v.numpy() for v in model.weights}
    return history, {k: v for k, v in weights.items() if "key/bias" not in k}, len(calls)


one_by_one = functools.cache(after_seven_steps)


@pytest.mark.parametrize("num_replicas", [1, 2])
@pytest.mark.parametrize("make", [limoe, two_tower])
def test_several_steps_a_call_train_as_one_by_one(num_replicas, make):
    # Seven batches are no multiple of four: the second call ends early.
    *found, calls = after_seven_steps(make, num_replicas, 4)
    *expected, _ = one_by_one(make, 1, 1)
    assert calls == 2
    assert_same_training(found, expected)


def test_sharded_experts_train_as_on_one_device():
    sharded = trained(lambda: limoe(expert_mesh="data:2;expert:4"), adafactor)
    assert_same_training(sharded, on_one_device(limoe, adafactor))


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_a_model_that_nobody_needs_goes_with_its_weights_and_the_graph_of_its_step(num_replicas):
    strategy = tiny.strategy_of(num_replicas)
    with strategy.scope():
        model = limoe()
        model.compile(adafactor())
    step = tf.function(lambda batch: strategy.run(model.train_step, [batch]), autograph=False)
    traced = step.get_concrete_function(tiny.tensors(4))
    of_model = [traced.graph, *(v.handle for v in traced.variables)]
    # Those of weights, slots and means, on each replica.
    assert len(of_model) > 3 * num_replicas * len(model.trainable_variables)
    of_model = [weakref.ref(part) for part in of_model]
    model = step = traced = None
    gc.collect()
    assert [part for part in of_model if part() is not None] == []


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"jit_compile": True}])
def test_eager_and_compiled_steps_train_as_the_graph(options):
    assert_same_training(trained(limoe, adafactor, **options), on_one_device(limoe, adafactor))


def test_a_fit_logs_its_means_and_warns_of_nothing(recwarn, capsys):
    model = limoe()
    model.compile(adafactor())
    history = model.fit(
        tiny.dataset(3), epochs=2, validation_data=tiny.dataset(1), shuffle=False
    ).history
    not_validated = {"gradient_norm", "learning_rate"}
    validation = {f"val_{name}" for name in set(SUMMARY) - not_validated}
    assert set(history) == {*SUMMARY, "skipped", *validation}
    assert all(len(values) == 2 and np.isfinite(values).all() for values in history.values())
    assert [str(warning.message) for warning in recwarn] == []
    printed = capsys.readouterr()
    assert "Epoch 2/2" in printed.out and "success_rate_text" in printed.out
    assert history["learning_rate"] == pytest.approx([0.01, 0.01])


def test_detailed_logs_hold_every_number_of_the_last_step():
    model = tiny.limoe(plan=("sparse", "sparse"))
    chosen = {"z": 0.5, "mutual_information": 2.0, "contrastive": 3.0}
    model.compile(adafactor(), loss_weights=chosen, detailed_logs=True)
    batch, report = tiny.tensors(8), model(tiny.tensors(8))[1]
    logs = model.train_step(batch)
    assert set(logs) == {*SUMMARY, "skipped", *report.losses, *report.metrics}
    weights = {**DEFAULT_WEIGHTS, **chosen}
    terms = [weights[name.split("/")[1]] * float(logs[name]) for name in report.losses]
    np.testing.assert_allclose(logs["loss"], 3 * logs["contrastive"] + sum(terms), rtol=1e-5)
    rates = [float(logs[f"block_{number}/success_rate_text"]) for number in ("00", "01")]
    np.testing.assert_allclose(logs["success_rate_text"], np.mean(rates), rtol=1e-6)
    np.testing.assert_allclose(logs["temperature"], 0.1, rtol=1e-6)


def test_logs_are_the_means_since_the_epoch_began():
    numbers, _ = on_one_device(limoe, adafactor)
    keras.utils.set_random_seed(0)
    model = limoe()
    model.compile(adafactor())
    for batch in tiny.dataset(3):
        means = model.train_step(batch)
    assert set(means) == {*SUMMARY, "skipped"}
    for name, value in means.items():
        np.testing.assert_allclose(value, np.mean(numbers[name]), rtol=1e-5)


def test_the_gradient_norm_is_that_before_clipping():
    model = limoe()
    model.compile(keras.optimizers.SGD(1.0, global_clipnorm=0.5), detailed_logs=True)
    before = [v.numpy() for v in model.trainable_variables]
    logs = model.train_step(tiny.tensors(8))
    changes = [v.numpy() - old for v, old in zip(model.trainable_variables, before)]
    assert float(logs["gradient_norm"]) > 1.0
    np.testing.assert_allclose(np.sqrt(sum((c**2).sum() for c in changes)), 0.5, rtol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_training_learns_a_batch_by_heart(policy):
    keras.mixed_precision.set_dtype_policy(policy)
    model = limoe()
    model.compile(Adafactor(0.01))
    history = model.fit(
        tiny.dataset(1).repeat(), steps_per_epoch=10, epochs=3, shuffle=False, verbose=0
    ).history
    assert np.isfinite(history["loss"]).all()
    # Guessing among 8 pairs costs log 8 = 2.1.
    assert history["contrastive"][0] > 1.0 and history["contrastive"][-1] < 0.2
    assert history["accuracy"][-1] > 0.9


def test_evaluation_takes_a_smaller_last_batch_and_weighs_batches_alike():
    model = limoe()
    model.compile(adafactor())
    pairs = tf.data.Dataset.from_tensor_slices(tiny.batch(19))
    found = model.evaluate(pairs.batch(8), verbose=0, return_dict=True)
    assert set(found) == set(SUMMARY) - {"gradient_norm", "learning_rate"}
    losses = [float(forward(model, b, DEFAULT_WEIGHTS, training=False)[0]) for b in pairs.batch(8)]
    assert len(losses) == 3
    np.testing.assert_allclose(found["loss"], np.mean(losses), rtol=1e-5)
    assert found["success_rate_image"] == found["success_rate_text"] == 1.0  # dropless
    assert int(model.optimizer.iterations) == 0


def test_predict_gives_the_embeddings_of_all_examples():
    model, batch = limoe(), tiny.batch(19)
    expected, _ = model(batch)
    found = model.predict(tf.data.Dataset.from_tensor_slices(batch).batch(8), verbose=0)
    assert set(found) == {"image", "text"}
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)
    alone = model.predict({"image": batch["image"]}, verbose=0)
    assert set(alone) == {"image"}
    np.testing.assert_allclose(alone["image"], expected["image"], atol=1e-6)


@pytest.mark.parametrize("missing", [["image"], ["text", "text_valid"]])
def test_training_without_a_modality_is_refused(missing):
    model = limoe()
    model.compile(adafactor())
    halves = tiny.dataset().map(lambda b: {k: v for k, v in b.items() if k not in missing})
    with pytest.raises(ValueError, match=rf"must hold images and texts. .*\['{missing[0]}'\]"):
        model.fit(halves, verbose=0)


def test_batches_that_are_no_dicts_are_refused():
    model = limoe()
    model.compile("adam")
    pairs = tiny.dataset().map(lambda batch: (batch["image"], batch["text"]))
    with pytest.raises(TypeError, match="must be dicts .* Received: tuple"):
        model.fit(pairs, verbose=0)


def test_pairs_of_one_text_are_positives_where_that_is_asked_for():
    batch = tiny.batch(8)
    batch["text"][:], batch["text_valid"][:] = batch["text"][0], True
    found = {}
    for option in (False, True):
        model = tiny.limoe(depth=1, plan=("dense",))
        model.compile(adafactor(), same_text_positives=option)
        found[option] = model.evaluate(
            tf.data.Dataset.from_tensors(batch), verbose=0, return_dict=True
        )
        assert model.get_compile_config()["same_text_positives"] == option
    # Any text is right; whichever of eight equal ones is nearest, it is not every image's own.
    assert found[True]["accuracy"] == 1.0 and found[False]["accuracy"] < 0.5


def test_losses_that_do_not_exist_are_refused_before_training():
    with pytest.raises(ValueError, match=r"must name losses among .*Received: \['importence'\]"):
        limoe().compile(adafactor(), loss_weights={"importence": 0.1})
