"""Initial values and checkpoints are whole, on any mesh."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.moe.experts import Experts
from limoe_tf.tpu import lower, replay
from limoe_tf.tpu.stateless import compiled_without_memory
from limoe_tf.train import names
from limoe_tf.train.checkpoint import Checkpoints
from tests.tpu import cases

WIDE, TALL = "data:4;expert:2", "data:2;expert:4"


def program_for(mesh):
    mesh = ExpertMesh(mesh, spans="replicas")
    model = compiled_without_memory(
        lambda: cases.make_model("float32", mesh), cases.make_optimizer("float32")
    )
    return lower.lower(model, global_batch=cases.GLOBAL_BATCH, mesh=mesh)


def one_device():
    model = cases.make_model("float32")
    model.compile(cases.make_optimizer("float32"))
    return model


def state_of(model):
    return {name: variable.numpy() for name, variable in names.of_state(model).items()}


def losses(run, batches):
    return np.array([run.step(batch)["loss"][0] for batch in batches])


@pytest.mark.parametrize("same", [True, False])
def test_shards_of_experts_start_from_the_values_of_one_device(same):
    def built(mesh):
        cases.keras.utils.set_random_seed(0)
        layer = Experts(8, 16, same_init=same, expert_mesh=mesh)
        layer.build((8, None, 12))
        return layer

    whole, shard = built(None), built(ExpertMesh(TALL, spans="replicas"))
    for variable, part in zip(whole.weights, shard.weights):
        assert part.shape == (2, *variable.shape[1:])
        np.testing.assert_array_equal(part, variable[:2])
        np.testing.assert_array_equal(shard.initial_value(part.name), variable)


def test_a_run_goes_on_from_a_checkpoint_on_another_mesh(tmp_path):
    batches = cases.batches()
    start = state_of(one_device())
    wide = replay.Replay(program_for(WIDE), start)
    losses(wide, batches[:2])
    # Saved by a model of one device, as whole tensors, and read by one.
    saved = one_device()
    for name, value in wide.whole_state().items():
        names.of_state(saved)[name].assign(tf.constant(value))
    path = Checkpoints(saved, tmp_path).save()
    restored = one_device()
    assert Checkpoints(restored, tmp_path).restore(path) == 2
    middle = state_of(restored)
    expected = losses(wide, batches[2:])
    for mesh in ("data:1", TALL):
        run = replay.Replay(program_for(mesh), middle)
        np.testing.assert_allclose(losses(run, batches[2:]), expected, rtol=1e-5)
    fresh = replay.Replay(program_for("data:1"), start)
    assert abs(expected[0] - losses(fresh, batches[2:3])[0]) > 0.01
