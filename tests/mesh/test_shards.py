"""Each replica of a strategy holds its own experts: trained, saved and asked as on one device."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh import replicas, shards
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.train import names
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.optimizer import Adafactor
from tests.shared import tiny

SQUARE = "data:2;expert:2"
VALUES = {"depth": 1, "plan": ("sparse",), "group_size": 2, "same_expert_init": False}


def made(mesh, **options):
    """A compiled model on the replicas of a mesh, or on one device."""
    keras.utils.set_random_seed(0)
    mesh = None if mesh is None else ExpertMesh(mesh, spans="replicas")
    with tiny.strategy_of(1 if mesh is None else mesh.num_devices).scope():
        model = tiny.limoe(**VALUES, expert_mesh=mesh)
        optimizer = Adafactor(0.01, weight_decay=0.001, global_clipnorm=0.1)
        model.compile(optimizer, detailed_logs=True, **options)
    return model


def fit(model, *, steps=3, size=8):
    """The numbers of each step."""
    batches = tiny.dataset(steps, size)
    options = {"epochs": steps, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    return model.fit(batches, **options).history


@functools.cache
def trained(mesh):
    model = made(mesh)
    return model, fit(model)


def assert_close(found, wanted):
    """Weights, and slots in bfloat16 among them, differ by rounding only."""
    for name, value in wanted.items():
        # A bias of the keys changes nothing: its gradient is nothing but rounding.
        if "key/bias" not in name:
            tolerance = 1e-2 * np.abs(value).max() if value.dtype.name == "bfloat16" else 1e-4
            np.testing.assert_allclose(
                np.float64(found[name]), np.float64(value), rtol=0, atol=tolerance, err_msg=name
            )


def state_of(model):
    return {name: variable.numpy() for name, variable in names.of_state(model).items()}


@pytest.fixture(scope="module", params=[SQUARE, "expert:4"])
def mesh(request):
    return request.param


def test_replicas_start_from_the_values_of_one_device(mesh):
    layers = [made(m).encoder.blocks[0].feed_forward.experts for m in (mesh, None)]
    spanned = ExpertMesh(mesh, spans="replicas")
    for sharded, whole in zip(*(layer.trainable_variables for layer in layers)):
        assert sharded.shape[0] == spanned.num_local_experts(4) < whole.shape[0] == 4
        parts = np.split(whole.numpy(), 4 // sharded.shape[0])
        for number, part in enumerate(sharded.value.values):
            np.testing.assert_array_equal(part, parts[spanned.shard_of(number)])


def test_they_train_as_one_device(mesh):
    (_, found), (_, wanted) = trained(mesh), trained(None)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    assert min(found["gradient_norm"]) > 0.1  # All steps were clipped, by the global norm.


def test_replicas_of_one_shard_stay_the_same():
    experts = trained(SQUARE)[0].encoder.blocks[0].feed_forward.experts
    first, second, third, fourth = (part.numpy() for part in experts.kernel_in.value.values)
    np.testing.assert_allclose(first, third, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(second, fourth, rtol=1e-6, atol=1e-8)
    assert (first != second).any()


def test_a_checkpoint_holds_whole_tensors(mesh, tmp_path):
    path = Checkpoints(trained(mesh)[0], tmp_path).save()
    one = made(None)
    assert Checkpoints(one, tmp_path).restore(path) == 3
    assert_close(state_of(one), state_of(trained(None)[0]))


def test_a_run_goes_on_from_a_checkpoint_on_any_mesh(tmp_path):
    wide = made("data:4;expert:2")
    fit(wide, steps=2, size=16)
    path = Checkpoints(wide, tmp_path).save()
    wanted = fit(wide, steps=2, size=16)
    for mesh in (None, "data:2;expert:4"):
        other = made(mesh)
        assert Checkpoints(other, tmp_path).restore(path) == 2
        found = fit(other, steps=2, size=16)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


@functools.cache
def evaluated(mesh):
    return made(mesh).evaluate(tiny.dataset(2), verbose=0, return_dict=True)


def test_evaluation_is_that_of_one_device(mesh):
    found, wanted = evaluated(mesh), evaluated(None)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_embeddings_are_those_of_one_device(mesh, tmp_path):
    many, batch = trained(mesh)[0], tiny.batch(6)
    one = made(None)
    Checkpoints(one, tmp_path, weights_only=True).restore(Checkpoints(many, tmp_path).save())
    np.testing.assert_allclose(
        many.encode_image(batch["image"]), one.encode_image(batch["image"]), atol=1e-5
    )
    # Five rows on four replicas are filled up to eight.
    texts = [model.encode_text(batch["text"][:5], batch["text_valid"][:5]) for model in (many, one)]
    assert texts[0].shape[0] == 5
    np.testing.assert_allclose(*texts, atol=1e-5)


def test_a_keras_file_holds_all_experts(tmp_path):
    many = trained(SQUARE)[0]
    many.save(tmp_path / "model.keras")
    one = keras.models.load_model(tmp_path / "model.keras", compile=False)
    batch = tiny.batch(4)
    np.testing.assert_allclose(
        many.encode_image(batch["image"]), one.encode_image(batch["image"]), atol=1e-5
    )
    one.save_weights(tmp_path / "model.weights.h5")
    again = made(SQUARE)
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(
        again.encode_image(batch["image"]), one.encode_image(batch["image"]), atol=1e-5
    )


def test_a_mesh_of_another_size_than_the_strategy_is_refused():
    with tiny.strategy_of(2).scope():
        with pytest.raises(ValueError, match="mesh of 4 replicas needs .* Received: 2"):
            tiny.limoe(**VALUES, expert_mesh=ExpertMesh("expert:4", spans="replicas"))
    model = tiny.limoe(**VALUES, expert_mesh=ExpertMesh("expert:4", spans="replicas"))
    with pytest.raises(ValueError, match="mesh of 4 replicas needs .* Received: 1"):
        model.encode_image(tiny.batch(4)["image"])


@pytest.mark.parametrize("shape", ["data:2;expert:2", "expert:4", "expert:2;data:2"])
def test_groups_exchange_and_sum_as_mesh_and_groups_say(shape):
    mesh = ExpertMesh(shape, spans="replicas")
    strategy = tiny.strategy_of(4)
    values = np.arange(4 * 8.0).reshape(4, 4, 2)
    groups = mesh.groups("expert")

    def ask(value):
        with replicas.scope(replicas.of_strategy(mesh)) as context:
            sums = context.sum_over_data(value), context.sum_over_experts(value)
            return (*sums, context.all_to_all(value, groups=groups, split_axis=0, concat_axis=1))

    each = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(values[context.replica_id_in_sync_group])
    )
    answers = tf.function(lambda v: strategy.run(ask, (v,)))(each)
    answers = list(zip(*map(strategy.experimental_local_results, answers)))
    for along, number in (("data", 0), ("expert", 1)):
        for group in mesh.groups(along):
            for replica in group:
                np.testing.assert_array_equal(answers[replica][number], values[group].sum(axis=0))
    for group in groups:
        for place, replica in enumerate(group):
            pieces = [np.split(values[sender], len(group))[place] for sender in group]
            np.testing.assert_array_equal(answers[replica][2], np.concatenate(pieces, axis=1))


def test_a_variable_without_parts_is_whole_already():
    mesh = ExpertMesh("expert:4", spans="replicas")
    variable = tf.Variable([1.0, 2.0])
    assert shards.as_whole(variable, mesh) is variable
    assert shards.as_whole(variable, None) is variable
