"""Steps that are not finite change nothing but the number of the step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.tpu.stateless import stateless
from limoe_tf.train.optimizer import Adafactor
from tests.shared import tiny


def batch_with_nan(size=8):
    """Float images, of which the last one has a pixel that is not a number."""
    batch = tiny.batch(size)
    batch["image"] = batch["image"].astype("float32") / 255
    good = dict(batch, image=batch["image"].copy())
    batch["image"][-1, 0, 0, 0] = np.nan
    return good, batch


def adafactor():
    return Adafactor(0.01, weight_decay=0.01, global_clipnorm=0.1)


def adamw():
    # Keras' own decay and moving average change variables, too, and by other ways.
    return keras.optimizers.AdamW(0.01, use_ema=True)


def compiled(optimizer, num_replicas=1, mesh=None, **options):
    keras.utils.set_random_seed(0)
    with tiny.strategy_of(num_replicas).scope():
        shared = {} if mesh is None else {"expert_mesh": ExpertMesh(mesh, spans="replicas")}
        model = tiny.limoe(depth=1, plan=("sparse",), group_size=2, **shared)
        model.compile(optimizer(), detailed_logs=True, **options)
    return model


def state(model):
    named = {v.path: v.value for v in [*model.trainable_variables, *model.optimizer.variables]}
    values = {
        path: [part.numpy() for part in model.distribute_strategy.experimental_local_results(value)]
        for path, value in named.items()
    }
    iterations = values.pop(model.optimizer.iterations.path)[0]
    return values, iterations


def fit(model, batch):
    data = tf.data.Dataset.from_tensors(batch)
    history = model.fit(data, epochs=1, shuffle=False, verbose=0).history
    return {name: values[-1] for name, values in history.items()}


@pytest.mark.parametrize(
    "optimizer, options",
    [
        (adafactor, {}),
        (adamw, {"run_eagerly": True}),
        (adamw, {"jit_compile": True}),
        (adafactor, {"num_replicas": 2}),
        (adafactor, {"num_replicas": 2, "mesh": "data:1;expert:2"}),
    ],
)
def test_a_step_with_nan_is_counted_and_changes_nothing(optimizer, options):
    model = compiled(optimizer, **options)
    good, bad = batch_with_nan()
    assert fit(model, good)["skipped"] == 0
    before, steps = state(model)
    logs = fit(model, bad)
    after, steps_after = state(model)
    assert logs["skipped"] == 1 and np.isnan(logs["loss"])
    assert (steps, steps_after) == (1, 2)
    tf.nest.map_structure(np.testing.assert_array_equal, after, before)
    assert fit(model, good)["skipped"] == 0
    moved, _ = state(model)
    changed = [not np.array_equal(moved[path][0], before[path][0]) for path in before]
    assert np.mean(changed) > 0.8
    for values in moved.values():
        assert all(np.isfinite(np.asarray(value, "float32")).all() for value in values)


def test_an_infinite_gradient_of_a_finite_loss_is_skipped():
    model = compiled(adafactor)
    # The square of a gradient of 1e30 is no float32.
    model.compile(adafactor(), loss_weights={"contrastive": 1e30}, detailed_logs=True)
    before, _ = state(model)
    logs = fit(model, batch_with_nan()[0])
    assert np.isfinite(logs["loss"]) and np.isinf(logs["gradient_norm"]) and logs["skipped"] == 1
    tf.nest.map_structure(np.testing.assert_array_equal, state(model)[0], before)


def test_a_stateless_step_skips_too():
    model = compiled(adafactor)
    stateless(model.optimizer)
    variables = [*model.variables, *model.optimizer.variables]
    pairs = [(v, tf.convert_to_tensor(v.value)) for v in variables]
    good, bad = ({k: tf.constant(v) for k, v in b.items()} for b in batch_with_nan())
    for batch, skipped in ((good, 0), (bad, 1)):
        with keras.StatelessScope(pairs, initialize_variables=False) as scope:
            logs = model.train_step(batch)
        assert float(logs["skipped"]) == skipped
        for variable, value in pairs:
            new = scope.get_current_value(variable)
            if variable is model.optimizer.iterations:
                assert int(new) == 1
            elif skipped and not variable.path.endswith("draws"):
                assert tf.reduce_all(tf.equal(new, value)), variable.path
        moved = scope.get_current_value(model.trainable_variables[0])
        assert np.array_equal(moved, pairs[0][1]) == bool(skipped)
