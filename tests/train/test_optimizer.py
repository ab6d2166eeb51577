"""Adafactor against NumPy; factoring and decay rules; the same update on any number of replicas."""

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.optimizers.base_optimizer import BaseOptimizer

from limoe_tf.train import adafactor_update, gradients, optimizer, schedule
from tests.shared import tiny

STEPS = 5


class Weights(keras.layers.Layer):
    """Variables as the model names them, and one that is not factored for its size."""

    def __init__(self, **kwargs):
        super().__init__(name="model", **kwargs)
        self.dense = keras.layers.Dense(40, name="dense")
        self.dense.build((None, 33))
        self.small = keras.layers.Dense(7, name="small")
        self.small.build((None, 40))
        self.experts = Experts(name="experts")
        self.experts.build(None)
        self.router = keras.layers.Dense(37, use_bias=False, name="router")
        self.router.build((None, 41))
        self.temperature = self.add_weight(shape=(), name="logit_scale_log", initializer="ones")
        self.built = True


class Experts(keras.layers.Layer):
    def build(self, _):
        self.kernel_in = self.add_weight(shape=(34, 36, 32), name="kernel_in")
        self.bias_in = self.add_weight(shape=(34, 36), name="bias_in", initializer="ones")
        self.built = True


def under_a_root():
    """Returns the variables of `Weights`, with the paths they have inside a model."""
    root = keras.Sequential(name="tower")
    layer = Weights()
    root.add(layer)
    return layer.trainable_variables


def gradients_of(variables, step):
    random = np.random.default_rng(step)
    return [random.normal(size=variable.shape).astype("float32") for variable in variables]


def relative_rate(step):
    """Warm-up over four steps, no fall worth the name afterwards."""
    return min(1, step / 4)


def a_schedule():
    return schedule.ReciprocalSquareRoot(
        0.1, total_steps=100, warmup_steps=4, timescale=10**9, cooldown_steps=0
    )


def adafactor_in_numpy(weight, gradients, axes, decay, momentum_dtype):
    """The update written from the paper; `axes` are those averaged over, or None."""
    weight = weight.astype("float64")
    momentum = np.zeros_like(weight).astype(momentum_dtype)
    moments = [0.0, 0.0]
    for step, gradient in enumerate(gradients):
        keep = min(0.999, 1 - (step + 1) ** -0.8)
        square = gradient.astype("float64") ** 2 + 1e-30
        if axes is None:
            moments[0] = second = keep * moments[0] + (1 - keep) * square
        else:
            for i, axis in enumerate(axes):
                mean = square.mean(axis, keepdims=True)
                moments[i] = keep * moments[i] + (1 - keep) * mean
            second = moments[0] * moments[1] / moments[0].mean(axes[1], keepdims=True)
        smoothed = 0.9 * momentum.astype("float64") + 0.1 * gradient / np.sqrt(second)
        momentum = smoothed.astype(momentum_dtype)
        weight -= relative_rate(step) * (0.1 * smoothed + decay * weight)
    return weight


# Averaged axes of each variable of `Weights`; the second is averaged over first.
AXES = {
    "dense/kernel": (1, 0),
    "dense/bias": None,
    "small/kernel": None,  # The smaller axis has 7 < 32 entries.
    "small/bias": None,
    "experts/kernel_in": (1, 2),  # Not the 34 experts, though 34 > 32.
    "experts/bias_in": None,  # One axis besides the experts.
    "router/kernel": None,  # 41 x 37 would be large enough.
    "logit_scale_log": None,
}


@pytest.fixture(params=["large", "small"])
def sizes_that_compile(request, monkeypatch):
    """Has the updates of all variables compiled one by one, as large ones are, or of none."""
    monkeypatch.setattr(adafactor_update, "_LARGE", {"large": 0, "small": 2**20}[request.param])


@pytest.mark.usefixtures("sizes_that_compile")
@pytest.mark.parametrize("momentum_dtype, tolerance", [("float32", 1e-6), ("bfloat16", 1e-4)])
def test_adafactor_agrees_with_numpy_over_five_steps(momentum_dtype, tolerance):
    variables = under_a_root()
    before = [variable.numpy() for variable in variables]
    adafactor = optimizer.Adafactor(a_schedule(), weight_decay=0.05, momentum_dtype=momentum_dtype)
    for step in range(STEPS):
        adafactor.apply(gradients_of(variables, step), variables)
    assert len(variables) == len(AXES)
    dtype = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[momentum_dtype]
    for i, (variable, weight) in enumerate(zip(variables, before)):
        name = next(name for name in AXES if variable.path.endswith(name))
        expected = adafactor_in_numpy(
            weight,
            [gradients_of(variables, step)[i] for step in range(STEPS)],
            AXES[name],
            0.05 if "kernel" in name else 0.0,
            dtype,
        )
        np.testing.assert_allclose(variable, expected, atol=tolerance, err_msg=name)


def test_the_first_step_takes_a_tenth_of_the_rate_in_the_direction_of_the_sign():
    # b2(0) = 0, so v = g^2 and g / sqrt(v) = sign(g); m = 0.1 sign(g); no bias correction.
    bias = keras.Variable([1.0, 1.0, 1.0], name="bias")
    optimizer.Adafactor(0.5).apply([tf.constant([3.0, -0.01, 0.0])], [bias])
    np.testing.assert_allclose(bias, [1 - 0.05, 1 + 0.05, 1], rtol=1e-6)


def test_decay_follows_the_schedule_but_not_the_base_rate_and_spares_all_but_kernels():
    # Without gradient only the decay is left: 1 - 0.01 * min(1, t / 4) at t = 0, 1, 2.
    kernel, bias = keras.Variable([1.0], name="kernel_out"), keras.Variable([1.0], name="bias")
    adafactor = optimizer.Adafactor(a_schedule(), weight_decay=0.01)
    for _ in range(3):
        adafactor.apply([tf.zeros(1), tf.zeros(1)], [kernel, bias])
    np.testing.assert_allclose(kernel, [(1 - 0.0025) * (1 - 0.005)], rtol=1e-6)
    np.testing.assert_array_equal(bias, [1.0])


def test_the_share_of_the_second_moment_that_is_kept_is_capped():
    # At t = 9,999 it would be 1 - 10,000^-0.8 = 0.99937; with g = 0 then v = 0.999 v.
    bias = keras.Variable([1.0], name="bias")
    adafactor = optimizer.Adafactor(0.5)
    adafactor.apply([tf.constant([2.0])], [bias])
    adafactor.iterations.assign(9_999)
    adafactor.apply([tf.constant([0.0])], [bias])
    (moment,) = [v for v in adafactor.variables if v.name.endswith("second_moment")]
    np.testing.assert_allclose(moment, [4 * 0.999], rtol=1e-6)


def test_slots_have_the_shapes_and_types_that_are_announced():
    variables = under_a_root()
    adafactor = optimizer.Adafactor()
    adafactor.build(variables)
    announced = [
        (tuple(spec.shape), spec.dtype.name)
        for variable in variables
        for spec in adafactor.slot_specs(variable.path, variable.shape).values()
    ]
    slots = [v for v in adafactor.variables if v.name not in ("iteration", "learning_rate")]
    assert [(tuple(slot.shape), slot.dtype) for slot in slots] == announced
    assert len(slots) == 8 + 8 + 2  # Momenta, moments, and one more for each factored kernel.
    assert adafactor.slot_specs("tower/block_01/experts/kernel_in", (32, 1280, 5120)) == {
        "momentum": tf.TensorSpec([32, 1280, 5120], tf.bfloat16),
        "second_moment_rows": tf.TensorSpec([32, 1280], tf.float32),
        "second_moment_columns": tf.TensorSpec([32, 5120], tf.float32),
    }


@pytest.mark.parametrize(
    "path, shape, axes",
    [
        ("tower/head/kernel", (31, 100), None),
        ("tower/head/kernel", (32, 100), (0, 1)),
        ("tower/head/kernel", (64, 12, 48), (2, 0)),
        ("tower/experts/kernel_in", (64, 31, 100), None),
        ("tower/experts_image/kernel_in", (64, 48, 100), (1, 2)),
        ("tower/experts/bias_in", (64, 100), None),
        ("tower/router_text/kernel", (768, 64), None),
        ("tower/router_norm_experts", (64, 64), (0, 1)),
        ("experts/kernel_in", (64, 48, 100), (1, 2)),
    ],
)
def test_the_two_largest_axes_are_factored_but_never_experts(path, shape, axes):
    assert optimizer.factored_axes(path, shape, min_dim_size_to_factor=32) == axes


def run_steps(make_optimizer, *, wrap=lambda function: function):
    variables = under_a_root()
    chosen = make_optimizer()
    chosen.build(variables)

    @wrap
    def step(*gradients):
        chosen.apply(gradients, variables)

    for i in range(3):
        step(*[tf.constant(g) for g in gradients_of(variables, i)])
    return [v.numpy() for v in [*variables, *chosen.variables]]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_update_equals_the_eager_one(jit_compile):
    def make():
        return optimizer.Adafactor(a_schedule(), weight_decay=0.05, momentum_dtype="float32")

    eager = run_steps(make)
    keras.utils.set_random_seed(0)
    compiled = run_steps(make, wrap=lambda f: tf.function(f, jit_compile=jit_compile))
    for one, other in zip(eager, compiled):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def make_adafactor():
    return optimizer.Adafactor(
        a_schedule(), weight_decay=0.05, momentum_dtype="float32", global_clipnorm=50.0
    )


def make_adamw():
    # A large epsilon: without it Adam's update would not depend on the size of the gradient.
    return optimizer.AdamW(a_schedule(), weight_decay=0.05, global_clipnorm=50.0, epsilon=0.1)


def after_three_steps(make_optimizer, num_replicas):
    """Applies the gradient of a loss over 12 examples, each replica holding its share of them."""
    keras.utils.set_random_seed(0)
    strategy = tiny.strategy_of(num_replicas)
    with strategy.scope():
        variables = under_a_root()
        chosen = gradients.with_reduced_gradients(make_optimizer())
        chosen.build(variables)
    examples = [
        tf.reshape(tf.stack([g] * 12), [12, -1]) * tf.range(1.0, 13.0)[:, tf.newaxis] / 78.0
        for g in gradients_of(variables, 7)
    ]

    def replica_step():
        context = tf.distribute.get_replica_context()
        share = 12 // num_replicas
        start = context.replica_id_in_sync_group * share
        gradients = [
            tf.reshape(tf.reduce_sum(rows[start : start + share], 0), variable.shape)
            for rows, variable in zip(examples, variables)
        ]
        gradients = [context.all_reduce("sum", gradient) for gradient in gradients]
        chosen.apply(gradients, variables)

    step = tf.function(lambda: strategy.run(replica_step))
    for _ in range(3):
        step()
    return [v.numpy() for v in [*variables, *chosen.variables]]


@pytest.mark.usefixtures("sizes_that_compile")
@pytest.mark.parametrize("make_optimizer", [make_adafactor, make_adamw])
def test_the_clipped_update_is_the_same_on_one_two_and_four_replicas(make_optimizer):
    expected = after_three_steps(make_optimizer, 1)
    for num_replicas in (2, 4):
        for one, many in zip(expected, after_three_steps(make_optimizer, num_replicas)):
            np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-6)


def test_adamw_decays_kernels_only():
    # No gradient: what is left is w - rate * decay * w = 1 - 0.5 * 0.1.
    names = ["kernel", "kernel_in", "bias_in", "positions"]
    variables = [keras.Variable([1.0], name=name) for name in names]
    adamw = optimizer.AdamW(0.5, weight_decay=0.1)
    adamw.apply([tf.zeros(1)] * 4, variables)
    np.testing.assert_allclose(np.concatenate(variables), [0.95, 0.95, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("make_optimizer", [make_adafactor, make_adamw])
def test_optimizers_come_back_from_their_config(make_optimizer):
    original = make_optimizer()
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(original))
    assert type(copy) is type(original) and copy.get_config() == original.get_config()


def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    def train(variables, chosen, steps):
        for step in steps:
            chosen.apply(gradients_of(variables, step), variables)

    variables, chosen = under_a_root(), make_adafactor()
    train(variables, chosen, range(2))
    saved = tf.train.Checkpoint(v=[*variables, *chosen.variables]).write(str(tmp_path / "saved"))
    train(variables, chosen, range(2, 4))

    others, another = under_a_root(), make_adafactor()
    another.build(others)
    checkpoint = tf.train.Checkpoint(v=[*others, *another.variables])
    checkpoint.read(saved).assert_consumed()
    train(others, another, range(2, 4))
    for one, other in zip(variables, others):
        np.testing.assert_array_equal(one, other)


class StatelessAdafactor(optimizer.Adafactor):
    """Adafactor with the four overrides that make Keras' stateless_apply work on TensorFlow."""

    def assign(self, variable, value):
        if in_stateless_scope():
            return variable.assign(tf.cast(value, variable.dtype))
        return super().assign(variable, value)

    def assign_sub(self, variable, value):
        if in_stateless_scope():
            return variable.assign(variable.value - tf.cast(value, variable.dtype))
        return super().assign_sub(variable, value)

    def _var_key(self, variable):
        variable = variable._value if isinstance(variable, keras.Variable) else variable
        return super()._var_key(variable)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if in_stateless_scope():
            return BaseOptimizer._backend_update_step(
                self, grads, trainable_variables, learning_rate
            )
        return super()._backend_update_step(grads, trainable_variables, learning_rate)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        return BaseOptimizer.stateless_apply(self, optimizer_variables, grads, trainable_variables)


def test_the_update_is_a_pure_function_of_flat_state():
    variables = under_a_root()
    stateful = StatelessAdafactor(
        a_schedule(), weight_decay=0.05, momentum_dtype="float32", global_clipnorm=50.0
    )
    stateful.build(variables)
    step = tf.function(stateful.stateless_apply)
    state = [tf.constant(v.numpy()) for v in stateful.variables]
    weights = [tf.constant(v.numpy()) for v in variables]
    for i in range(3):
        gradients = [tf.constant(g) for g in gradients_of(variables, i)]
        weights, state = step(state, gradients, weights)
    assert int(stateful.iterations) == 0  # The variables themselves are untouched.
    for i in range(3):
        stateful.apply(gradients_of(variables, i), variables)
    for pure, variable in zip([*weights, *state], [*variables, *stateful.variables]):
        np.testing.assert_allclose(pure, variable, rtol=2e-5, atol=1e-6)


def test_sparse_gradients_of_a_table_are_summed_before_they_are_squared():
    dense_table, table = (keras.Variable(tf.ones([3, 2]), name="embeddings") for _ in range(2))
    values = tf.constant([[1.0, 2.0], [3.0, -9.0], [5.0, 5.0]])
    sparse = tf.IndexedSlices(values, indices=[0, 0, 2], dense_shape=[3, 2])
    optimizer.Adafactor(0.5).apply([sparse], [table])
    optimizer.Adafactor(0.5).apply([tf.convert_to_tensor(sparse)], [dense_table])
    np.testing.assert_array_equal(table, dense_table)


@pytest.mark.parametrize(
    "arguments, kind, message",
    [
        ({"learning_rate": -1.0}, ValueError, "learning_rate=-1.0"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate='fast'"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay=-0.1"),
        ({"beta_1": 1.5}, ValueError, "beta_1=1.5"),
        ({"momentum_dtype": "float16"}, ValueError, "momentum_dtype='float16'"),
        ({"min_dim_size_to_factor": 0}, ValueError, "min_dim_size_to_factor=0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, kind, message):
    with pytest.raises(kind, match=message):
        optimizer.Adafactor(**arguments)


def test_decay_needs_a_schedule_that_says_its_share_of_the_base_rate():
    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    with pytest.raises(TypeError, match="`relative`"):
        optimizer.Adafactor(rate, weight_decay=0.1)
    assert optimizer.Adafactor(rate).weight_decay == 0


def test_only_a_keras_optimizer_can_be_told_that_gradients_are_reduced():
    with pytest.raises(TypeError, match="optimizer='adam'"):
        gradients.with_reduced_gradients("adam")
