"""Saved models answer and train on in a fresh process; checkpoints hold all that training needs."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf import SparseFeedForward
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.train.optimizer import Adafactor
from limoe_tf.train.schedule import Cosine
from tests.shared import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ("limoe", "pools", "two_tower", "own")
OPTIONS = {"loss_weights": {"z": 0.25}, "detailed_logs": True, "steps_per_execution": 2}
FRESH_PROCESS = """
import json, sys
import limoe_tf, keras
import numpy as np
import tensorflow as tf

# As in the process of the tests: a rewritten graph rounds bfloat16 at other places.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
folder, *names = sys.argv[1:]
try:
    for name in names:
        keras.models.load_model(f"{folder}/{name}.keras", compile=name == "limoe")
    missing = None
except TypeError as error:
    missing = str(error)[:80]
    import limoe_tf.model.two_tower, limoe_tf.train.schedule
inputs = dict(np.load(f"{folder}/inputs.npz"))
pairs = {name: inputs[name] for name in ("image", "text", "text_valid")}
models = {name: keras.models.load_model(f"{folder}/{name}.keras") for name in names}
for name, model in models.items():
    own = [inputs["stream"], inputs["flags"]]
    answer = model.predict(own if name == "own" else pairs, verbose=0)
    np.savez(f"{folder}/{name}_answer.npz", **(answer if name != "own" else {"own": answer}))
limoe = models["limoe"]
history = limoe.fit(pairs, batch_size=3, epochs=1, shuffle=False, verbose=0).history
history = {name: np.asarray(value).tolist() for name, value in history.items()}
facts = {
    "history": history,
    "compiled": [limoe.loss_weights, limoe.detailed_logs, limoe.steps_per_execution],
    "optimizer": limoe.optimizer.get_config(),
    "missing": missing,
    "policies": [model.dtype_policy.name for model in models.values()],
}
json.dump(facts, open(f"{folder}/facts.json", "w"))
"""


def optimizer():
    schedule = Cosine(0.01, warmup_steps=2, total_steps=9)
    return Adafactor(schedule, weight_decay=0.001, global_clipnorm=0.5)


def compiled_limoe(seed=0):
    keras.utils.set_random_seed(seed)
    model = tiny.limoe(depth=1, plan=("sparse",), num_choices=2, mask_padding=True)
    model.compile(optimizer(), **OPTIONS)
    return model


def train(model, pairs):
    """The numbers of the last step, of the two that six pairs make."""
    history = model.fit(pairs, batch_size=3, epochs=1, shuffle=False, verbose=0).history
    return {name: np.asarray(value).tolist() for name, value in history.items()}


def own_model():
    """A sparse layer in a model of the user's."""
    stream, flags = keras.Input((5, 12)), keras.Input((5,), dtype="bool")
    sparse = SparseFeedForward(16, num_experts=4, modalities=["text"], loss_weights={"z": 0.1})
    return keras.Model([stream, flags], sparse({"text": stream}, {"text": flags})[0]["text"])


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """What a fresh process answered, and what this one answers: each by name of the model."""
    folder = tmp_path_factory.mktemp("saved")
    pairs = tiny.batch(6)
    stream = np.random.default_rng(0).normal(size=(6, 5, 12)).astype("float32")
    np.savez(folder / "inputs.npz", stream=stream, flags=pairs["text_valid"], **pairs)
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    in_half = tiny.limoe(routing="experts_per_modality", embedding_size=7)
    keras.mixed_precision.set_dtype_policy("float32")
    models = dict(zip(MODELS, (compiled_limoe(), in_half, tiny.two_tower(), own_model())))
    train(models["limoe"], pairs)
    expected = {}
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
        own = [stream, pairs["text_valid"]]
        answer = model.predict(own if name == "own" else pairs, verbose=0)
        expected[name] = {"own": answer} if name == "own" else answer
    command = [sys.executable, "-c", FRESH_PROCESS, folder, *MODELS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answers = {name: dict(np.load(folder / f"{name}_answer.npz")) for name in MODELS}
    facts = json.loads((folder / "facts.json").read_text())
    return answers, expected, facts, train(models["limoe"], pairs), models["limoe"]


def test_importing_the_package_is_all_that_loading_a_model_needs(fresh):
    assert fresh[2]["missing"] is None


@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_process_gives_the_same_answers(fresh, name):
    answers, expected, facts, _, _ = fresh
    assert set(answers[name]) == set(expected[name])
    for part, value in expected[name].items():
        assert np.abs(value).max() > 0.1
        np.testing.assert_allclose(answers[name][part], value, atol=1e-6)
    in_half = facts["policies"][MODELS.index(name)] == "mixed_bfloat16"
    assert in_half == (name == "pools")


def test_a_fresh_process_trains_on_with_the_same_options_and_the_same_noise(fresh):
    _, _, facts, history, model = fresh
    assert facts["compiled"] == [model.loss_weights, True, 2]
    assert facts["compiled"][0]["z"] == 0.25
    assert facts["optimizer"] == json.loads(json.dumps(model.optimizer.get_config()))
    assert set(facts["history"]) == set(history)
    for name, value in history.items():
        np.testing.assert_allclose(facts["history"][name], value, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_restores_everything_that_training_needs(tmp_path):
    pairs = tiny.batch(6)
    model, other = compiled_limoe(), compiled_limoe(seed=1)
    train(model, pairs)
    saved = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = saved.write(str(tmp_path / "step"))
    train(other, tiny.batch(6, seed=1))  # Its slots, and its draws, are others now.
    restored = tf.train.Checkpoint(model=other, optimizer=other.optimizer).read(path)
    restored.assert_consumed()
    draws = [v for v in other.non_trainable_variables if v.path.endswith("draws")]
    assert [int(value) for value in draws] == [2]
    for before, after in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(before, after)
    expected, found = train(model, pairs), train(other, pairs)
    assert found == expected
    for before, after in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(before, after)


def state(model):
    return [variable.numpy() for variable in (*model.weights, *model.optimizer.variables)]


def test_the_mesh_is_the_process_s_and_not_the_model_s(tmp_path):
    batch = tiny.tensors(6)
    sharded = tiny.limoe(expert_mesh="data:2;expert:4")
    sharded.save(tmp_path / "sharded.keras")
    loaded = keras.models.load_model(tmp_path / "sharded.keras")
    resharded = tiny.limoe(expert_mesh=ExpertMesh("expert:2"))
    resharded.load_weights(tmp_path / "sharded.keras")
    experts = [m.encoder.blocks[1].feed_forward.experts for m in (sharded, loaded, resharded)]
    assert [layer.sharded for layer in experts] == [True, False, True]
    expected = sharded(batch)[0]
    for model in (loaded, resharded):
        for name, value in model(batch)[0].items():
            np.testing.assert_allclose(value, expected[name], atol=1e-6)
