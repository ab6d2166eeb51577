"""What the sparse layer computes: against a loop over tokens, and what must always hold."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.moe.sparse import SparseFeedForward
from limoe_tf.tokens import join

B, IMAGES, TEXTS, D, F, E = 6, 5, 3, 7, 11, 4
VALID = {"image": None, "text": None}
PADDED = {"image": None, "text": tf.constant([[True, True, False]] * B)}


def draw_streams(seed=0):
    random = np.random.default_rng(seed)
    draw = {"image": (B, IMAGES, D), "text": (B, TEXTS, D)}
    return {name: tf.constant(random.normal(size=s), tf.float32) for name, s in draw.items()}


def make_layer(**options):
    """A layer whose experts differ; without noise unless asked for."""
    values = dict(num_experts=E, same_expert_init=False, router_noise=0.0, slots_multiple_of=1)
    layer = SparseFeedForward(F, **{**values, **options})
    layer.build({"image": (None, None, D)})
    layer.experts.bias_in.assign(np.random.default_rng(1).normal(size=[E, F]))
    layer.experts.bias_out.assign(np.random.default_rng(2).normal(size=[E, D]))
    return layer


def joined(streams):
    """[B * (IMAGES + TEXTS), D]: the one group that the layer makes of a batch."""
    return np.concatenate([np.reshape(streams[name], [-1, D]) for name in ("image", "text")])


def expert_outputs(layer, tokens):
    """What every expert would answer to every token: [T, E, D]."""
    names = ("kernel_in", "bias_in", "kernel_out", "bias_out")
    kernel_in, bias_in, kernel_out, bias_out = (getattr(layer.experts, n).numpy() for n in names)
    hidden = np.einsum("td,edf->tef", tokens, kernel_in) + bias_in
    hidden = tf.nn.gelu(hidden, approximate=True).numpy()
    return np.einsum("tef,efd->ted", hidden, kernel_out) + bias_out


def clean_gates(layer, streams):
    return tf.nn.softmax(joined(streams) @ layer.router.kernels[0].numpy()).numpy()


def answer_by_loop(layer, streams, gates, num_choices, num_slots):
    """Tokens in order of their gates, first choices first, each through its own experts alone."""
    tokens = joined(streams)
    outputs, answer = expert_outputs(layer, tokens), np.zeros_like(tokens)
    choices = np.argsort(-gates, axis=-1)[:, :num_choices]
    score = np.take_along_axis(gates, choices, axis=-1).sum(axis=-1)
    taken, dropped = np.zeros(E, int), 0
    for k in range(num_choices):
        for t in np.argsort(-score):
            e = choices[t, k]
            if taken[e] < num_slots:
                taken[e] += 1
                answer[t] += gates[t, e] * outputs[t, e]
            else:
                dropped += 1
    return answer, dropped


@pytest.mark.parametrize("num_choices", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_a_token_gets_its_gates_times_the_answers_of_its_experts(num_choices, training):
    layer, streams = make_layer(num_choices=num_choices), draw_streams()
    # In training ceil(48 K 1.05 / 4) slots; at inference no token is dropped.
    tokens = B * (IMAGES + TEXTS)
    num_slots = -(-tokens * num_choices * 1.05 // E) if training else tokens
    gates = clean_gates(layer, streams)
    expected, dropped = answer_by_loop(layer, streams, gates, num_choices, num_slots)
    assert (dropped > 0) == training
    outputs, report = layer(streams, VALID, training=training)
    np.testing.assert_allclose(joined(outputs), expected, rtol=1e-3, atol=1e-4)
    rates = [report.metrics[f"success_rate_{name}"] for name in ("image", "text")]
    kept = rates[0] * IMAGES + rates[1] * TEXTS
    np.testing.assert_allclose(kept * B * num_choices, tokens * num_choices - dropped, rtol=1e-5)


@pytest.mark.parametrize("num_choices", [1, 2])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_with_normalized_gates_equal_experts_answer_as_one(num_choices, jit_compile):
    layer, streams = make_layer(num_choices=num_choices, normalize_gates=True), draw_streams()
    for weight in layer.experts.trainable_weights:
        weight.assign(np.repeat(weight.numpy()[:1], E, axis=0))
    with tf.GradientTape() as tape:
        call = tf.function(layer, jit_compile=jit_compile, autograph=False)
        outputs, report = call(streams, VALID, training=True)
        loss = tf.reduce_sum(outputs["image"][..., 0])
    one, kept = expert_outputs(layer, joined(streams))[:, 0], joined(outputs).any(axis=-1)
    np.testing.assert_allclose(joined(outputs)[kept], one[kept], rtol=1e-4, atol=1e-5)
    rate = np.mean([report.metrics[f"success_rate_{name}"] for name in streams])
    assert 0.5 < rate < 1 and kept.mean() > 0.5
    # With one choice the weight is 1 whatever the router says. Equal experts tell it nothing yet.
    to_router = tape.gradient(loss, layer.router.kernels[0].value)
    assert np.abs(to_router).max() < 1e-4
    assert SparseFeedForward.from_config(layer.get_config()).normalize_gates


def test_normalized_gates_of_several_choices_train_the_router_and_that_of_one_does_not():
    for num_choices, trains in ((1, False), (2, True)):
        layer, streams = make_layer(num_choices=num_choices, normalize_gates=True), draw_streams()
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(streams, VALID)[0]["image"])
        assert (np.abs(tape.gradient(loss, layer.router.kernels[0].value)).max() > 1e-3) == trains


def test_dropped_tokens_get_zero_and_pass_no_gradient():
    layer, streams = make_layer(capacity_factor=0.5), draw_streams()
    with tf.GradientTape() as tape:
        tape.watch(streams)
        outputs, report = layer(streams, VALID, training=True)
    gradients = tape.gradient(outputs, streams)
    for name in streams:
        dropped = (outputs[name].numpy() == 0).all(axis=-1)
        assert not gradients[name].numpy()[dropped].any()
        assert np.abs(gradients[name]).max(axis=-1)[~dropped].min() > 0
        rate = report.metrics[f"success_rate_{name}"]
        np.testing.assert_allclose(1 - dropped.mean(), rate, rtol=1e-6)


def test_what_stands_on_padding_changes_nothing():
    layer, streams = make_layer(num_choices=2), draw_streams()
    other = dict(streams, text=tf.where(PADDED["text"][..., None], streams["text"], 9.0))
    results = [layer(x, PADDED, training=True) for x in (streams, other)]
    for before, after in zip(*map(tf.nest.flatten, results)):
        np.testing.assert_array_equal(before, after)
    assert not results[0][0]["text"].numpy()[:, 2].any()


def test_dropless_inference_does_not_depend_on_the_other_examples():
    streams, few = draw_streams(), slice(1, 3)
    part, same = {name: stream[few] for name, stream in streams.items()}, []
    for factor in (None, 0.5):
        layer = make_layer(inference_capacity_factor=factor)
        whole, _ = layer(streams, VALID, training=False)
        alone, _ = layer(part, VALID, training=False)
        text_alone, _ = layer({"text": part["text"]}, {"text": None}, training=False)
        pairs = [(alone[name], whole[name][few]) for name in part]
        pairs.append((text_alone["text"], alone["text"]))
        same.append(all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs))
    assert same == [True, False]


def test_groups_do_not_compete_with_each_other():
    layer, streams = make_layer(group_size=2, capacity_factor=0.6), draw_streams()
    other = draw_streams(seed=1)
    mixed = {n: tf.concat([streams[n][:2], other[n][2:]], axis=0) for n in streams}
    first, second = (layer(x, VALID, training=True)[0] for x in (streams, mixed))
    for name in streams:
        np.testing.assert_allclose(first[name][:2], second[name][:2], rtol=1e-5, atol=1e-6)
        assert (joined(first) == 0).all(axis=-1).any()


def test_renaming_experts_only_renames_the_answer():
    layer, streams = make_layer(num_choices=2, capacity_factor=0.8), draw_streams()
    before, report = layer(streams, VALID, training=True)
    new = np.array([2, 0, 3, 1])  # the expert that stood at new[e] stands at e
    layer.router.kernels[0].assign(layer.router.kernels[0].numpy()[:, new])
    for weight in layer.experts.trainable_weights:
        weight.assign(weight.numpy()[new])
    after, renamed = layer(streams, VALID, training=True)
    for name, stream in before.items():
        np.testing.assert_allclose(after[name], stream, rtol=1e-4, atol=1e-5)
        tokens = report.metrics[f"tokens_{name}"].numpy()
        np.testing.assert_array_equal(renamed.metrics[f"tokens_{name}"], tokens[new])
    for name, loss in report.losses.items():
        np.testing.assert_allclose(renamed.losses[name], loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", ["batch_priority", "first_in_images_first"])
def test_permuting_examples_and_tokens_only_permutes_the_answer_under_batch_priority(order):
    layer = make_layer(capacity_factor=0.6, dispatch_order=order)
    streams, random = draw_streams(), np.random.default_rng(0)
    examples, places = random.permutation(B), random.permutation(IMAGES)
    moved = {
        "image": tf.gather(tf.gather(streams["image"], examples), places, axis=1),
        "text": tf.gather(streams["text"], examples),
    }
    before, after = (layer(x, VALID, training=True)[0] for x in (streams, moved))
    expected = before["image"].numpy()[examples][:, places]
    same = np.allclose(after["image"], expected, rtol=1e-4, atol=1e-5)
    assert same == (order == "batch_priority")


def test_noisy_gates_route_and_weigh_while_the_losses_are_of_clean_ones():
    layer, streams = make_layer(router_noise=8.0), draw_streams()
    grouped, _, layout = join(streams, VALID)
    noisy = layer.router(grouped, layout=layout, training=True).probabilities[0].numpy()
    clean = clean_gates(layer, streams)
    assert (noisy.argmax(axis=-1) != clean.argmax(axis=-1)).any()
    layer.router.draws.assign(0)  # the same noise again
    outputs, report = layer(streams, VALID, training=True)
    num_slots = -(-B * (IMAGES + TEXTS) * 1.05 // E)
    expected, dropped = answer_by_loop(layer, streams, noisy, 1, num_slots)
    assert dropped > 0
    np.testing.assert_allclose(joined(outputs), expected, rtol=1e-3, atol=1e-4)
    mass = clean.sum(axis=0)
    variation = (mass.std() / mass.mean()) ** 2
    np.testing.assert_allclose(report.losses["importance"], variation, rtol=1e-4)
    local = -(clean * np.log(clean)).sum(axis=-1)[: B * IMAGES].mean()
    np.testing.assert_allclose(report.losses["local_entropy_image"], local, rtol=1e-4)


def test_training_draws_noise_and_inference_does_not():
    layer, streams = make_layer(router_noise=1.0), draw_streams()
    trained = [joined(layer(streams, VALID, training=True)[0]) for _ in range(2)]
    assert (trained[0] != trained[1]).any()
    inferred = [joined(layer(streams, VALID, training=False)[0]) for _ in range(2)]
    np.testing.assert_array_equal(*inferred)


class OwnModel(keras.Model):
    """Somebody's model with a sparse layer in it."""

    def __init__(self, **options):
        super().__init__()
        self.sparse = make_layer(**options)

    def call(self, images, training=None):
        streams, _ = self.sparse({"image": images}, {"image": None}, training=training)
        return images + streams["image"]


def test_in_a_keras_model_the_losses_go_into_the_one_that_fit_minimizes():
    images, losses = draw_streams()["image"], []
    for loss_weights in (None, {"importance": 0.5, "z": 2.0, "local_entropy_text": 9.0}):
        keras.utils.set_random_seed(0)
        model = OwnModel(loss_weights=loss_weights)
        model.compile("sgd", "mse", jit_compile=False)
        report = model.sparse({"image": images}, {"image": None}, training=True)[1]
        losses.append(model.fit(images, images, batch_size=B, verbose=0).history["loss"][0])
    added = 0.5 * report.losses["importance"] + 2 * report.losses["z"]  # the batch has no text
    np.testing.assert_allclose(losses[1] - losses[0], added, rtol=1e-4)


def test_the_added_losses_alone_train_the_router():
    images = draw_streams()["image"]
    model = OwnModel(loss_weights={"importance": 1.0})
    with tf.GradientTape() as tape:
        model(images, training=True)
        (loss,) = model.losses
    assert (tape.gradient(loss, model.sparse.router.kernels[0].value).numpy() != 0).all()


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(num_choices=E + 1), ValueError, "`num_choices` must be between 1 and num_experts=4"),
        (dict(num_choices=0), ValueError, "`num_choices` must be at least 1. Received"),
        (dict(capacity_factor=-1), ValueError, "`capacity_factor` must be at least 0"),
        (dict(inference_capacity_factor="1"), TypeError, "`inference_capacity_factor` must be a n"),
        (dict(group_size=0), ValueError, "`group_size` must be at least 1"),
        (dict(dispatch_order="fifo"), ValueError, "`dispatch_order` must be one of 'batch_prio"),
        (dict(routers="two"), ValueError, "`routers` must be one of 'shared', 'per_modality'"),
        (dict(min_experts={"image": 2}), ValueError, "`min_experts` must name every modality"),
        (dict(min_experts={"image": 2, "text": 5}), ValueError, "between 1 and 4. Received: min_e"),
        (dict(loss_weights={"zz": 1}), ValueError, "`loss_weights` must be one of 'importance'"),
        (dict(modalities=("image",), loss_weights={"mutual_information": 1}), ValueError, "one of"),
    ],
)
def test_values_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        make_layer(**options)


def test_streams_that_do_not_fit_are_refused():
    layer = make_layer()
    with pytest.raises(ValueError, match="`streams` must be one of 'image', 'text'. .*'audio'"):
        layer({"audio": draw_streams()["image"]}, {"audio": None})
