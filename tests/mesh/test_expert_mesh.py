"""A mesh of devices computes what one device computes, and says why when it cannot."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.mesh.expert_mesh import ExpertMesh

E, M, D, F, Z = 8, 13, 5, 7, 3
MESHES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 2), (8, 1), (1, 8)]
SHARDED = "data:2;expert:4"


def expert_mlp(rows, kernel_in, bias_in, kernel_out, bias_out):
    hidden = tf.einsum("emd,edf->emf", rows, kernel_in) + bias_in[:, None]
    return tf.einsum("emf,efz->emz", tf.nn.gelu(hidden), kernel_out) + bias_out[:, None]


def draw(shape, dtype=tf.float32, seed=0):
    return tf.cast(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def draw_inputs(rows=M, dtype=tf.float32):
    """Buffers and the weights of the expert MLP."""
    shapes = [[E, rows, D], [E, D, F], [E, F], [E, F, Z], [E, Z]]
    return [draw(shape, dtype) for shape in shapes]


def outputs_and_gradients(mesh, inputs):
    """The experts' output, and the gradients of a loss that weighs every entry differently."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = mesh.run(expert_mlp, inputs[0], inputs[1:])
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * draw(outputs.shape, seed=1))
    return [outputs, *tape.gradient(loss, inputs)]


def assert_close(results, expected, tolerance):
    """Each tensor within `tolerance` of the other's largest entry."""
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected):
        assert result.shape == wanted.shape and result.dtype == wanted.dtype
        result, wanted = (np.asarray(x, np.float32) for x in (result, wanted))
        np.testing.assert_allclose(result, wanted, rtol=0, atol=tolerance * abs(wanted).max())


# float32 differs only in the order of sums over at most 16 rows. A bfloat16 gradient of a weight is
# a sum of up to 8 devices' sums, each rounded by up to 2**-9 of itself, and so is each addition.
@pytest.mark.parametrize(
    "in_graph, dtype, tolerance",
    [(False, "float32", 1e-6), (True, "float32", 1e-6), (True, "bfloat16", 16 * 2**-9)],
)
@pytest.mark.parametrize("data, expert", MESHES)
def test_outputs_and_gradients_are_those_of_one_device(data, expert, in_graph, dtype, tolerance):
    inputs = draw_inputs(dtype=dtype)
    compute = tf.function(outputs_and_gradients) if in_graph else outputs_and_gradients
    results = compute(ExpertMesh(f"data:{data};expert:{expert}"), inputs)
    assert_close(results, outputs_and_gradients(ExpertMesh(), inputs), tolerance)


@pytest.mark.parametrize("rows", [1, 7, 8, 16, 17])
def test_any_number_of_rows_will_do(rows):
    inputs = draw_inputs(rows)
    results = outputs_and_gradients(ExpertMesh(SHARDED), inputs)
    assert_close(results, outputs_and_gradients(ExpertMesh(), inputs), 1e-6)


@pytest.mark.parametrize(
    "shape, layout",
    [
        ("expert:4;data:2", "batch:data;origin:expert;experts:expert"),
        ("expert:8", "origin:expert;experts:expert"),
        (SHARDED, "batch:data;experts:expert"),
        (SHARDED, "batch:data;origin:expert"),
        (SHARDED, "batch:data;origin:expert;experts:data"),
        (SHARDED, "experts:expert"),
    ],
)
def test_every_layout_gives_the_same_numbers(shape, layout):
    inputs = draw_inputs()
    results = outputs_and_gradients(ExpertMesh(shape, layout=layout), inputs)
    assert_close(results, outputs_and_gradients(ExpertMesh(), inputs), 1e-6)


def calls_by_device(mesh, rows):
    """What each device computed with: {its number: (shape of the rows, numbers of the experts)}."""
    calls = {}

    def local(rows, names):
        answer = rows + 0.0
        if tf.executing_eagerly():
            device = int(answer.device.rpartition(":")[2])
            calls[device] = (rows.shape.as_list(), names.numpy().tolist())
        return answer

    mesh.run(local, draw([E, rows, D]), [tf.range(E)])
    return calls


def test_each_device_holds_its_own_experts_and_its_share_of_the_rows():
    # Mesh 2 x 4: 16 rows make 8 for each data coordinate; 8 experts make 2 for each expert
    # coordinate, which is the device's number modulo 4.
    expected = {d: ([2, 8, D], [2 * (d % 4), 2 * (d % 4) + 1]) for d in range(8)}
    assert calls_by_device(ExpertMesh(SHARDED), rows=16) == expected


def test_given_devices_are_the_ones_used():
    mesh = ExpertMesh("expert:2", devices=["/device:CPU:6", "/device:CPU:3"])
    expected = {6: ([4, 16, D], [0, 1, 2, 3]), 3: ([4, 16, D], [4, 5, 6, 7])}
    assert calls_by_device(mesh, rows=16) == expected


def test_one_device_takes_rows_of_unknown_number_and_compiles():
    inputs = draw_inputs()
    run = tf.function(
        lambda rows: ExpertMesh().run(expert_mlp, rows, inputs[1:]),
        input_signature=[tf.TensorSpec([E, None, D])],
        jit_compile=True,
    )
    assert_close([run(inputs[0])], [expert_mlp(*inputs)], 1e-6)


class Experts(keras.layers.Layer):
    """The least layer whose experts run on a mesh."""

    def __init__(self, mesh):
        super().__init__()
        self.mesh = ExpertMesh(mesh)

    def build(self, shape):
        sizes = [[E, D, F], [E, F], [E, F, D], [E, D]]
        self.kernels = [self.add_weight(shape=s, initializer="glorot_normal") for s in sizes]

    def call(self, rows):
        buffers = tf.transpose(rows, [1, 0, 2])
        return tf.transpose(self.mesh.run(expert_mlp, buffers, self.kernels), [1, 0, 2])


@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 1e-2)])
def test_fit_gives_the_same_losses_as_one_device(policy, tolerance):
    keras.mixed_precision.set_dtype_policy(policy)
    rows, targets = draw([4 * M, E, D]), draw([4 * M, E, D], seed=2)
    losses = []
    for mesh in (None, SHARDED):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input([E, D], batch_size=M), Experts(mesh)])
        model.compile("adam", "mse", jit_compile=False)
        history = model.fit(rows, targets, batch_size=M, epochs=3, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    assert losses[0][2] < losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance)


def exchanges(mesh, shards):
    """The all-to-alls in the graph of one replica of a TPU program, gradients included."""
    buffers, *weights = draw_inputs()
    weights = [weight[: E // shards] for weight in weights]

    @tf.function
    def step(replica):
        with tf.GradientTape() as tape:
            tape.watch([buffers, *weights])
            context = replicas.of_mesh(mesh, replica)
            outputs = mesh.run(expert_mlp, buffers, weights, context=context)
        assert outputs.shape == [E, M, Z]
        gradients = tape.gradient(outputs, [buffers, *weights])
        assert [g.shape for g in gradients] == [x.shape for x in [buffers, *weights]]
        return gradients

    operations = step.get_concrete_function(tf.TensorSpec([], tf.int32)).graph.get_operations()
    return [operation for operation in operations if operation.type == "AllToAll"]


def test_a_replica_exchanges_twice_forward_and_twice_backward_in_float32():
    found = exchanges(ExpertMesh(SHARDED), shards=4)
    assert [operation.get_attr("T") for operation in found] == [tf.float32] * 4
    # Replicas of one data coordinate are neighbours in row-major order.
    groups = [tf.get_static_value(operation.inputs[1]).tolist() for operation in found]
    assert groups == [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 4


def test_replicas_that_hold_all_experts_exchange_nothing():
    assert not exchanges(ExpertMesh("data:8"), shards=1)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(shape=8), TypeError, "`shape` must be a string"),
        (dict(shape="data"), ValueError, "must read like 'data:2;expert:4'"),
        (dict(shape="data:2;expert:x"), ValueError, "must read like"),
        (dict(shape="rows:2"), ValueError, "must name the axes data and expert"),
        (dict(shape="data:2;data:4"), ValueError, "each at most once"),
        (dict(shape=""), ValueError, "must name the axes"),
        (dict(shape="data:0"), ValueError, "at least 1"),
        (dict(layout=None), TypeError, "`layout` must be a string"),
        (dict(layout="batch"), ValueError, "must read like"),
        (dict(layout="heads:data"), ValueError, "batch, origin, experts"),
        (dict(layout="batch:model"), ValueError, "data, expert"),
        (dict(layout="batch:data;batch:expert"), ValueError, "one of the axes"),
        (dict(layout="batch:data;origin:data"), ValueError, "different ones"),
        (dict(devices="CPU:0"), TypeError, "`devices` must be a list"),
        (dict(shape=SHARDED, devices=["CPU:0", "CPU:1"]), ValueError, "data:2;expert:1, data:1"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ExpertMesh(**arguments)


def test_a_mesh_larger_than_the_host_is_refused():
    with pytest.raises(ValueError, match="A mesh of 16 devices .* data:1;expert:8"):
        ExpertMesh("data:2;expert:8").run(lambda rows: rows, draw([E, M, D]), [])


def test_experts_that_do_not_divide_are_refused_with_what_would_fit():
    with pytest.raises(ValueError, match="sizes 1, 2, 3, 6 would fit. Received: num_experts=6"):
        ExpertMesh(SHARDED).check_num_experts(6)


@pytest.mark.parametrize(
    "shape, weight, message",
    [
        ([E, None, D], [E, D], "cannot be exported: build the model with one device"),
        ([E, D], [E, D], "`buffers` must be"),
        ([6, M, D], [6, D], "`num_experts` must be divisible"),
        ([E, M, D], [4, D], "must each have 8 experts"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape, weight, message):
    run = tf.function(lambda rows, w: ExpertMesh(SHARDED).run(lambda rows, w: rows, rows, [w]))
    with pytest.raises(ValueError, match=message):
        run.get_concrete_function(tf.TensorSpec(shape), tf.TensorSpec(weight))


def test_a_function_that_loses_rows_is_refused():
    with pytest.raises(ValueError, match=r"`function` must return \[2, 8, D_out\]"):
        ExpertMesh(SHARDED).run(lambda rows: rows[:, 1:], draw([E, M, D]), [])


def test_xla_over_devices_of_one_host_is_refused():
    run = tf.function(lambda rows: ExpertMesh(SHARDED).run(tf.identity, rows, []), jit_compile=True)
    with pytest.raises(ValueError, match="jit_compile=False"):
        run(draw([E, M, D]))


def test_replicas_whose_rows_are_not_split_over_the_mesh_are_refused():
    mesh = ExpertMesh(SHARDED, layout="batch:data;experts:expert")
    with pytest.raises(ValueError, match="must split the rows over every axis"):
        context = replicas.of_mesh(mesh, tf.constant(0))
        mesh.run(tf.identity, draw([E, M, D]), [], context=context)


def test_replicas_hold_shards_and_know_their_neighbours():
    mesh = ExpertMesh(SHARDED, spans="replicas")
    assert mesh.over_replicas and mesh.num_local_experts(8) == 2
    assert [mesh.shard_of(replica) for replica in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert mesh.groups("expert") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert mesh.groups("data") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    swapped = ExpertMesh("expert:4;data:2", spans="replicas")
    assert [swapped.shard_of(replica) for replica in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert swapped.groups("data") == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_host_holds_all_experts_and_one_replica_is_no_mesh():
    assert ExpertMesh(SHARDED).num_local_experts(8) == 8
    assert not ExpertMesh(spans="replicas").over_replicas
    assert ExpertMesh("data:3", spans="replicas").groups("expert") == [[0], [1], [2]]


@pytest.mark.parametrize(
    "layout", ["batch:data;experts:expert", "batch:data;origin:expert;experts:data"]
)
def test_a_mesh_of_replicas_splits_rows_and_experts(layout):
    with pytest.raises(ValueError, match="must split the rows over every axis"):
        ExpertMesh(SHARDED, layout=layout, spans="replicas")


def test_a_mesh_spans_a_host_or_replicas():
    with pytest.raises(ValueError, match="`spans` must be one of 'host', 'replicas'"):
        ExpertMesh(SHARDED, spans="hosts")
