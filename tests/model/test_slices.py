"""A batch computed in slices: the numbers, gradients and weights of the whole batch."""

import functools

import keras
import numpy as np
import pytest

from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.train.optimizer import Adafactor
from tests.shared import tiny

# Every loss takes part, and the marginals' thresholds are passed.
WEIGHTS = {
    "importance": 0.5,
    "load": 0.5,
    "z": 0.1,
    "local_entropy_image": 0.3,
    "global_entropy_image": 2.0,
    "global_entropy_text": 2.0,
    "mutual_information": 1.5,
}
SPARSE = {
    "plan": ("sparse", "sparse"),
    "group_size": 2,
    "min_experts": {"image": 4, "text": 4},
    "mask_padding": True,
    "router_noise": 4.0,
}
ONE = {**SPARSE, "depth": 1, "plan": ("sparse",)}
MODELS = {
    "dense": {"depth": 1, "plan": ("dense",)},
    "sparse": SPARSE,
    "two_choices": {**ONE, "routing": "router_per_modality", "num_choices": 2},
    "two_pools": {
        **ONE,
        "routing": "experts_per_modality",
        "min_experts": {"image": 2, "text": 2},
    },
    "random_order": {**ONE, "dispatch_order": "random", "max_logit_scale": 10.5},
    "recomputed": {**SPARSE, "recompute_blocks": True},
    "sigmoid": {"depth": 1, "plan": ("dense",), "contrastive": "sigmoid", "logit_bias": -2.0},
}


@functools.cache
def second_step(num_slices, kind, *, jit_compile=False):
    return tiny.second_step(
        16,
        model_options=MODELS[kind],
        jit_compile=jit_compile,
        loss_weights=WEIGHTS,
        num_slices=num_slices,
    )


@pytest.mark.parametrize("kind", MODELS)
def test_eight_slices_have_the_gradients_of_the_whole_batch(kind):
    tiny.assert_same_step(second_step(8, kind), second_step(1, kind))


def test_every_loss_takes_part_in_what_is_compared():
    logs = second_step(1, "sparse")[0]
    for name in ("contrastive", *WEIGHTS):
        assert all(logs[full] != 0 for full in logs if full.endswith(name)), name


def test_slices_compiled_by_xla_have_the_gradients_of_the_whole_batch():
    found = second_step(4, "recomputed", jit_compile=True)
    tiny.assert_same_step(found, second_step(1, "sparse"))


def trained(num_slices, *, num_replicas=1, size=16, **options):
    """The numbers of each of three steps, and the weights after them."""
    keras.utils.set_random_seed(0)
    with tiny.strategy_of(num_replicas).scope():
        model = tiny.limoe(**ONE)
        model.compile(
            Adafactor(0.01, weight_decay=0.001, global_clipnorm=0.1),
            loss_weights=WEIGHTS,
            num_slices=num_slices,
            **options,
        )
    history = model.fit(
        tiny.dataset(3, size), epochs=3, steps_per_epoch=1, shuffle=False, verbose=0
    ).history
    weights = {variable.path.split("/", 1)[1]: variable.numpy() for variable in model.weights}
    return history, weights


in_one_slice = functools.cache(functools.partial(trained, 1))


@pytest.mark.parametrize(
    "num_slices, options",
    [
        (8, {}),
        (4, {"num_replicas": 2, "same_text_positives": True}),
        (2, {"run_eagerly": True}),
    ],
)
def test_training_in_slices_ends_with_the_same_weights(num_slices, options):
    history, weights = trained(num_slices, **options)
    on_one_device = {k: v for k, v in options.items() if k != "num_replicas"}
    on_one_device.pop("run_eagerly", None)
    expected, expected_weights = in_one_slice(**on_one_device)
    for found, wanted in ((history, expected), (weights, expected_weights)):
        assert set(found) == set(wanted)
        for name, values in wanted.items():
            # The gradient of a bias of the keys is nothing but rounding: no softmax can see it.
            if not name.endswith("key/bias"):
                np.testing.assert_allclose(found[name], values, 1e-4, atol=1e-4, err_msg=name)
    draws = [value for name, value in weights.items() if name.endswith("draws")]
    assert draws == [3]


def test_two_towers_in_bfloat16_train_in_slices():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    norms = []
    for num_slices in (1, 4):
        keras.utils.set_random_seed(0)
        model = tiny.two_tower(depth=1)
        model.compile("sgd", num_slices=num_slices, detailed_logs=True)
        norms.append(float(model.train_step(tiny.tensors(8))["gradient_norm"]))
    np.testing.assert_allclose(*norms, rtol=0.02)


def test_slices_must_divide_the_batch():
    model = tiny.limoe(depth=1, plan=("dense",))
    with pytest.raises(ValueError, match="`num_slices` must be at least 1. Received: num_slices=0"):
        model.compile("sgd", num_slices=0)
    model.compile("sgd", num_slices=3)
    assert model.get_compile_config()["num_slices"] == 3
    with pytest.raises(ValueError, match=r"must divide the 8 pairs .* Received: num_slices=3"):
        model.train_step(tiny.tensors(8))


def test_replicas_of_a_host_that_share_experts_cannot_have_slices():
    with tiny.strategy_of(2).scope():
        mesh = ExpertMesh("data:1;expert:2", spans="replicas")
        model = tiny.limoe(**ONE, expert_mesh=mesh)
        model.compile("sgd", num_slices=2)
    with pytest.raises(ValueError, match="on TPUs only: .* Received: mesh=.*expert"):
        model.fit(tiny.dataset(1), verbose=0)
