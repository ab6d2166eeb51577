"""Models of all downstream tasks: they learn, keep experts, are saved, and spread over replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.downstream.rates import rate_factors
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.train import names, step
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.optimizer import AdamW
from tests.shared import tasks, tiny

ALL = sorted(tasks.TASKS)
ROUTED = ("/experts/", "/router/")


def endless(batch):
    return tf.data.Dataset.from_tensors(batch).repeat()


def values_of(model):
    return {variable.path: variable.numpy() for variable in model.weights}


@pytest.mark.parametrize("task", ALL)
def test_64_examples_are_learned_while_routers_and_experts_stay_as_they_are(task):
    model = tasks.model(task, width=32, num_heads=4, hidden_width=64)
    batch, before = tasks.batch(model, 64), values_of(model)
    model.compile(keras.optimizers.Adam(0.003))
    right = model.progress_logs[0]
    data = endless(batch)
    for _ in range(20):
        last = model.fit(data, steps_per_epoch=25, shuffle=False, verbose=0).history[right][-1]
        if last > 0.995:
            break
    logs = model.evaluate(data, steps=1, verbose=0, return_dict=True)
    assert logs[right] >= 0.99, logs
    routed = {path for path in before if any(part in path for part in ROUTED)}
    assert len(routed) == 12, routed
    for path, value in values_of(model).items():
        if path in routed:
            np.testing.assert_array_equal(value, before[path], err_msg=path)


@pytest.mark.parametrize("task", ALL)
def test_a_saved_model_answers_alike_and_keeps_what_is_frozen(task, tmp_path):
    model = tasks.model(task)
    batch = tasks.batch(model)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    expected = model.infer(batch)
    for name, value in loaded.infer(batch).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)
    assert [v.path for v in loaded.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    # Not frozen any more stays so, too.
    model.unfreeze()
    model.save(tmp_path / "b.keras")
    loaded = keras.models.load_model(tmp_path / "b.keras")
    assert len(loaded.trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize("task", ALL)
def test_two_replicas_give_the_logs_and_gradients_of_one(task):
    def second_step(num_replicas, mesh=None):
        keras.utils.set_random_seed(0)
        strategy = tiny.strategy_of(num_replicas)
        with strategy.scope():
            expert_mesh = mesh and ExpertMesh(mesh, spans="replicas")
            # Two examples are a group, wherever they are.
            options = {"expert_mesh": expert_mesh, "freeze_experts": False, "group_size": 2}
            model = tasks.model(task, **options)
            model.compile("sgd")

        @tf.function(autograph=False)
        def differentiate(batch):
            with model.on_replicas():
                return step.differentiate(model, batch, model.loss_weights)

        share = 8 // num_replicas
        for seed in (0, 1):
            batch = tasks.batch(model, 8, seed)

            def of_replica(context, batch=batch):
                first = context.replica_id_in_sync_group * share
                return {n: tf.constant(v[first : first + share]) for n, v in batch.items()}

            parts = strategy.experimental_distribute_values_from_function(of_replica)
            logs, found = strategy.run(differentiate, args=(parts,))
        logs = {name: strategy.experimental_local_results(v)[0] for name, v in logs.items()}
        paths = names.of_variables(model, model.trainable_variables)
        found = {
            path: strategy.experimental_local_results(value)
            for path, value in zip(paths, found, strict=True)
        }
        return {n: v for n, v in logs.items() if "/" not in n}, found

    expected, gradients = second_step(1)
    for mesh in (None, "data:1;expert:2"):
        logs, found = second_step(2, mesh)
        assert set(logs) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
        for path, parts in found.items():
            sharded = mesh is not None and "/experts/" in path
            value = np.concatenate(parts) if sharded else parts[0]
            scale = max(0.1, np.abs(gradients[path][0]).max())
            np.testing.assert_allclose(
                value, gradients[path][0], 0, atol=1e-4 * scale, err_msg=path
            )


def pretrained(folder, **changes):
    keras.utils.set_random_seed(3)
    model = tiny.vlmoe(plan=("sparse", "dense"), **changes)
    model.compile("sgd")
    Checkpoints(model, folder / "checkpoints").save()
    return model


def test_the_backbone_begins_with_a_run_and_heads_are_new(tmp_path):
    source, model = pretrained(tmp_path), tasks.model("questions")
    changed = model.init_backbone(tmp_path)
    # The same image size is no change.
    assert changed == []
    expected = names.of_weights(source)
    for name, variable in names.of_weights(model.backbone).items():
        np.testing.assert_array_equal(variable, expected[name], err_msg=name)
    assert model.companions == source.companions


def test_another_image_size_changes_nothing_but_positions(tmp_path):
    source, model = pretrained(tmp_path), tasks.model("classes", image_size=24)
    assert model.init_backbone(tmp_path) == ["image positions: 17 to 37, interpolated"]
    expected = names.of_weights(source)
    for name, variable in names.of_weights(model.backbone).items():
        if name != "model/image_embed/positions":
            np.testing.assert_array_equal(variable, expected[name], err_msg=name)


def test_a_backbone_of_other_sizes_is_refused_by_name(tmp_path):
    pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"mlp_in/kernel.*float32\[12, 16\], in the model"):
        tasks.model("classes", hidden_width=24).init_backbone(tmp_path)


def test_limoe_is_a_backbone_where_there_is_one_modality():
    for task in ("classes", "sentences"):
        kind, options = tasks.TASKS[task]
        model = kind(lambda **named: tiny.limoe(**named), **options)
        batch = tasks.batch(model)
        model.compile("sgd")
        logs = model.fit(endless(batch), steps_per_epoch=2, shuffle=False, verbose=0).history
        assert np.isfinite(logs["loss"][0]) and model.weights[0].path.startswith("backbone/")


def test_a_backbone_that_lacks_what_the_task_needs_is_refused():
    for task in ("questions", "statements", "retrieval"):
        kind, options = tasks.TASKS[task]
        with pytest.raises(TypeError, match=f"{kind.__name__} must have `pair_features`"):
            kind(tiny.limoe(), **options)
    with pytest.raises(TypeError, match="must have `features`"):
        tasks.TASKS["classes"][0](keras.Sequential(), class_names=3)


def test_a_backbone_with_the_heads_of_pretraining_takes_them_too(tmp_path):
    pretrained(tmp_path)
    model = tasks.model("classes", masked_heads=True)
    assert model.init_backbone(tmp_path) == []


def test_a_head_learns_faster_and_first_blocks_slower_by_their_factors():
    factors = rate_factors(depth=2, head_factor=20.0, layer_decay=0.5)
    model = tasks.model("classes", plan=("dense", "dense"), fused_blocks=0)
    batch, before = tasks.batch(model), values_of(model)
    model.compile(AdamW(1e-3, rate_factors=factors, weight_decay=0.0, epsilon=1e-20))
    model.fit(endless(batch), steps_per_epoch=1, shuffle=False, verbose=0)
    # The first step of Adam moves each weight by its rate.
    moved = {path: np.abs(value - before[path]).max() for path, value in values_of(model).items()}
    expected = {
        "image_classifier/head/classes/kernel": 20.0,
        "backbone/encoder/final_norm/gamma": 1.0,
        "backbone/encoder/block_01/attention/query/kernel": 0.5,
        "backbone/encoder/block_00/attention/query/kernel": 0.25,
        "backbone/image_embed/positions": 0.125,
    }
    for path, factor in expected.items():
        np.testing.assert_allclose(moved[path], factor * 1e-3, rtol=0.02, err_msg=path)


def test_factors_must_be_of_weights_that_are_trained():
    model = tasks.model("classes")
    with pytest.raises(ValueError, match="`rate_factors` must name weights that are trained"):
        model.compile(AdamW(1e-3, rate_factors={"block_07": 2.0}))
    with pytest.raises(ValueError, match=r"rate_factors\['head'\]"):
        AdamW(1e-3, rate_factors={"head": -1.0})


def test_hard_negatives_are_drawn_by_similarity_and_never_the_own():
    model = tasks.model("retrieval")
    model.logit_scale_log.assign(np.log(50.0))
    images = np.random.default_rng(0).normal(size=[6, 4]).astype("float32")
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts = np.roll(images, 1, axis=0)  # The nearest of image i is text i + 1.

    def drawn(times):
        seeds = (tf.constant([0, number]) for number in range(times))
        return np.stack([model._drawn(images, tf.constant(texts), seed) for seed in seeds])

    found = drawn(50)
    assert not (found == np.arange(6)).any()
    assert (found == (np.arange(6) + 1) % 6).mean() > 0.9
    model.logit_scale_log.assign(np.log(1e-3))  # All are as good.
    found = drawn(300)
    shares = np.stack([(found == text).mean(axis=0) for text in range(6)])
    np.testing.assert_allclose(shares[~np.eye(6, dtype=bool)], 0.2, atol=0.1)
