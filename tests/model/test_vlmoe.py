"""VL-MoE: which weights a stream meets, and what it sees of others and of what is masked."""

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model import sizes
from limoe_tf.model.block import Block
from limoe_tf.model.feedforward import DenseFeedForward
from limoe_tf.model.vlmoe import VlMoe
from limoe_tf.tpu.stateless import without_memory
from tests.shared import tiny
from tests.shared.masked import assert_equal, encoded, part, shaken, shown, valid_of

DENSE, SPARSE = ("dense", "dense"), ("sparse", "sparse")
HEADS = ("word_head", "patch_head", "patch_codes")


# BASE is published as of 1.9 billion parameters with 32 experts, and 180 million a token.
@pytest.mark.parametrize(
    "size, num_experts, millions",
    [("BASE", 1, 201), ("BASE", 32, 1958), ("SMALL", 1, 50), ("SMALL", 8, 116), ("SMALL", 16, 192)],
)
def test_parameters_written_out(size, num_experts, millions):
    depth, width, hidden, fused, sparse = {
        "SMALL": (8, 384, 1536, 1, 4),
        "BASE": (12, 768, 3072, 2, 6),
    }[size]
    dense = {"plan": ("dense",) * depth} if num_experts == 1 else {}
    with without_memory():
        model = VlMoe.from_size(
            f"VL-MoE-{size}", num_experts=num_experts, vocabulary_size=64_000, **dense
        )
    norm, attention = 2 * width, 4 * width**2 + 4 * width
    feed_forward = 2 * width * hidden + hidden + width
    outside = (
        (64_000 + 2) * width  # word pieces, the mask and the class token of texts
        + (1 + 96) * width  # their positions
        + 3 * 16**2 * width + width  # patches
        + 2 * width  # the class token of images, and their mask
        + (1 + 14**2) * width  # their positions
        + norm  # behind the last block
    )  # fmt: skip
    blocks = depth * (norm + attention + 2 * (norm + feed_forward))  # V and T
    blocks += fused * (norm + feed_forward)  # VL
    pools = 0 if dense else 2 * sparse * ((num_experts - 1) * feed_forward + width * num_experts)
    found = {v.path.split("/", 1)[1]: math.prod(v.shape) for v in model.trainable_variables}
    backbone = sum(count for path, count in found.items() if not path.startswith(HEADS))
    assert backbone == outside + blocks + pools
    assert round(backbone / 1e6) == millions


def test_heads_written_out():
    # D 12, 19 word pieces, 5 codes; a second table of word pieces if it is not tied.
    def of_heads(**changes):
        weights = tiny.vlmoe(**changes).trainable_variables
        return sum(math.prod(v.shape) for v in weights if "_head/" in v.path)

    assert of_heads() == (12 * 12 + 12 + 2 * 12 + 19) + (12 * 5 + 5)
    assert of_heads(tied_words=False) - of_heads() == 19 * 12
    assert of_heads(patch_targets="pixels") - of_heads() == (12 + 1) * (48 - 5)


def plain_blocks(model):
    """Blocks with the model's attention, and V's norm and feed-forward for all."""
    found = []
    for block in model.encoder.blocks:
        plain = Block(2, DenseFeedForward(16))
        plain.build((None, None, 12))
        plain.attention.set_weights(block.attention.get_weights())
        plain.attention_norm.set_weights(block.attention_norm.get_weights())
        of_all = block.feed_forward
        plain.feed_forward_norm.set_weights(of_all.norms[0].get_weights())
        found.append(plain)
    return found


def make_all_feed_forwards_equal(model, plain):
    """Copies one feed-forward and its norm to V, T and VL, and to all experts of sparse blocks."""
    for block, of_plain in zip(model.encoder.blocks, plain):
        of_all = block.feed_forward
        weights = of_plain.feed_forward.get_weights()
        for layer, norm in zip(of_all.layers, of_all.norms, strict=True):
            norm.set_weights(of_plain.feed_forward_norm.get_weights())
            if isinstance(layer, DenseFeedForward):
                layer.set_weights(weights)
            else:
                layer.experts.set_weights([np.stack([value] * 4) for value in weights])


@pytest.mark.parametrize("plan", [DENSE, SPARSE])
def test_with_equal_feed_forwards_a_pair_is_one_sequence_in_a_plain_transformer(plan):
    # The gate of the only choice, divided by the sum of all gates of choices, is 1.
    model = shaken(tiny.vlmoe(plan=plan, normalize_gates=True))
    plain = plain_blocks(model)
    for number, block in enumerate(plain):
        keras.utils.set_random_seed(number)
        shape = [value.shape for value in block.feed_forward.get_weights()]
        block.feed_forward.set_weights([np.random.normal(scale=0.3, size=s) for s in shape])
    make_all_feed_forwards_equal(model, plain)
    batch = part(tiny.masked_batch(), "pair")
    ids = np.pad(batch["text_shown"], [[0, 0], [1, 0]], constant_values=20)
    masked = np.zeros([6, 16], bool)
    np.put_along_axis(masked, batch["image_masked"], True, axis=1)
    texts = model.text_embed(tf.constant(ids))
    images = model.image_embed(tf.constant(batch["image"]), tf.constant(masked))
    tokens = tf.concat([texts, images], axis=1)
    valid = np.pad(batch["text_valid"], [[0, 0], [1, 17]], constant_values=True)
    for block in plain:
        tokens = block(tokens, tf.constant(valid))
    tokens = model.encoder.final_norm(tokens).numpy()
    found = encoded(model, batch)
    flags = {"pair_text": valid[:, :6], "pair_image": valid[:, 6:]}
    assert_equal(found, {"pair_text": tokens[:, :6], "pair_image": tokens[:, 6:]}, flags)


def gradient_sizes(model, batch):
    """By part of the model, the largest gradient of a weight."""
    _, found = model.differentiate(batch, model.default_weights)
    sizes_by_part = {}
    for variable, gradient in zip(model.trainable_variables, found):
        path = variable.path.split("/", 1)[1]
        end = re.search("(?<=feed_forwards/)[a-z]+", path)
        name = f"{path.split('/')[1]}/{end[0]}" if end else path.split("/")[0]
        size = 0.0 if gradient is None else float(tf.norm(tf.convert_to_tensor(gradient)))
        sizes_by_part[name] = max(sizes_by_part.get(name, 0.0), size)
    return sizes_by_part


V, T = ({f"block_0{n}/{name}" for n in (0, 1)} for name in ("image", "text"))
IMAGES, TEXTS = {"image_embed", "patch_head"}, {"text_embed", "word_head"}
MET = {
    "lone_image": {*V, *IMAGES},
    "lone_text": {*T, *TEXTS},
    # Their last block is fused: both take VL there.
    "pair": {"block_00/image", "block_00/text", "block_01/pair", *IMAGES, *TEXTS},
}


@pytest.mark.parametrize("plan", [DENSE, SPARSE])
@pytest.mark.parametrize("stream", MET)
def test_a_stream_trains_the_weights_that_it_meets_and_no_others(stream, plan):
    found = gradient_sizes(tiny.vlmoe(plan=plan), part(tiny.masked_tensors(), stream))
    assert set(found) == {*V, *T, "block_01/pair", *IMAGES, *TEXTS, "encoder"}
    assert {name for name, size in found.items() if size > 0} == {*MET[stream], "encoder"}


@pytest.mark.parametrize("plan", [DENSE, SPARSE])
def test_padding_changes_nothing(plan):
    model, batch = shaken(tiny.vlmoe(plan=plan)), tiny.masked_batch()
    other, valid = dict(batch), valid_of(batch)
    for name in ("text", "text_shown", "lone_text", "lone_text_shown"):
        flags = batch[f"{name.removesuffix('_shown')}_valid"]
        other[name] = np.where(flags, batch[name], 7).astype("int32")
        assert (other[name] != batch[name]).any()
    assert_equal(encoded(model, other), encoded(model, batch), valid)
    reports = [model.forward(each, training=False) for each in (batch, other)]
    for found, expected in zip(*map(tf.nest.flatten, reports), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("plan", [DENSE, SPARSE])
def test_a_stream_is_encoded_alike_with_and_without_the_rest_of_the_batch(plan):
    model, batch = shaken(tiny.vlmoe(plan=plan)), tiny.masked_batch()
    whole, valid = encoded(model, batch), valid_of(batch)
    for stream in MET:
        for examples in (slice(None), slice(2, 3)):
            alone = {name: value[examples] for name, value in part(batch, stream).items()}
            found = encoded(model, alone)
            expected = {name: whole[name][examples] for name in found}
            assert_equal(found, expected, {name: valid[name][examples] for name in found})


@pytest.mark.parametrize("changed", ["image", "text", "lone_image", "lone_text"])
def test_streams_see_each_other_in_pairs_alone(changed):
    model, batch = shaken(tiny.vlmoe()), shown(tiny.masked_batch())
    other = {**batch, changed: batch[changed].copy()}
    other[changed][0, :2] = 22 - batch[changed][0, :2]  # An image's first rows; of words 4 to 18.
    before, after = encoded(model, batch), encoded(model, other)
    seen_by = {
        "image": {"pair_image", "pair_text"}, "text": {"pair_image", "pair_text"},
        "lone_image": {"image"}, "lone_text": {"text"},
    }[changed]  # fmt: skip
    for name, value in before.items():
        moved = np.abs(after[name] - value).max(axis=2)  # By example and token.
        assert moved[1:].max() < 1e-5, name
        if name in seen_by:
            assert moved[0, :2].min() > 1e-4, name
        else:
            assert moved[0].max() < 1e-5, name


@pytest.mark.parametrize("key", ["image", "lone_image"])
def test_masked_patches_are_hidden_from_the_encoder_and_are_its_targets(key):
    model, batch = shaken(tiny.vlmoe(patch_targets="pixels")), tiny.masked_batch()
    masked = np.zeros([6, 16], bool)
    np.put_along_axis(masked, batch[f"{key}_masked"], True, axis=1)
    hidden = np.kron(masked.reshape(6, 4, 4), np.ones([1, 4, 4], bool))[..., np.newaxis]
    assert hidden.mean() == 6 / 16
    other = {**batch, key: np.where(hidden, 255 - batch[key], batch[key])}
    assert_equal(encoded(model, other), encoded(model, batch), atol=0)
    stream = {"image": "pair_image", "lone_image": "image"}[key]
    before, after = (encoded(model, shown(each))[stream] for each in (batch, other))
    assert np.abs(after - before).max() > 1e-3
    losses = [model.forward(each, training=False).losses for each in (batch, other)]
    name = {"image": "vlm_image", "lone_image": "mim"}[key]
    assert abs(float(losses[0][name] - losses[1][name])) > 1e-3


@pytest.mark.parametrize("key", ["text", "lone_text"])
def test_masked_words_are_hidden_from_the_encoder_and_are_its_targets(key):
    model, batch = shaken(tiny.vlmoe()), tiny.masked_batch()
    other = {**batch, key: np.where(batch[key] > 3, 22 - batch[key], batch[key])}
    assert_equal(encoded(model, other), encoded(model, batch), atol=0)
    losses = [model.forward(each, training=False).losses for each in (batch, other)]
    name = {"text": "vlm_text", "lone_text": "mlm"}[key]
    assert abs(float(losses[0][name] - losses[1][name])) > 1e-3
    # Nothing else has changed.
    assert {k for k in losses[0] if losses[0][k] != losses[1][k]} == {name}


def test_an_encoder_of_each_kind_gives_the_streams_of_the_call():
    model, batch = shaken(tiny.vlmoe()), shown(tiny.masked_batch(3))
    expected = encoded(model, batch)
    found = {
        "image": model.encode_image(batch["lone_image"]),
        "text": model.encode_text(batch["lone_text"], batch["lone_text_valid"]),
    }
    pair = model.encode_pair(batch["image"], batch["text"], batch["text_valid"])
    found.update(zip(("pair_image", "pair_text"), pair))
    assert_equal({name: np.asarray(value) for name, value in found.items()}, expected)


def test_layer_scale_of_zero_leaves_the_embeddings_alone():
    model, batch = tiny.vlmoe(layer_scale=0.0), shown(tiny.masked_batch())
    images = model.encoder.final_norm(model.image_embed(tf.constant(batch["lone_image"])))
    np.testing.assert_allclose(encoded(model, batch)["image"], images, atol=1e-6)
    scales = [v for v in model.trainable_variables if v.path.endswith("_scale")]
    assert [v.shape for v in scales] == [(12,)] * 4


def test_drop_path_draws_anew_in_training_and_nothing_at_inference():
    model, batch = shaken(tiny.vlmoe(plan=DENSE, drop_path=0.5)), tiny.masked_tensors(12)
    assert [block.drop_path for block in model.encoder.blocks] == [0.0, 0.5]

    def trained():
        return {name: value.numpy() for name, value in model(batch, training=True)[0].items()}

    first, second = trained(), trained()
    (draws,) = (v for v in model.weights if v.path.endswith("block_01/draws"))
    assert int(draws) == 4  # Attention and feed-forward, twice.
    draws.assign(0)
    assert_equal(trained(), first, atol=0)
    for name, value in second.items():
        assert np.abs(value - first[name]).max() > 1e-2
    assert_equal(encoded(model, batch), encoded(model, batch), atol=0)
    plain = tiny.vlmoe(plan=DENSE)
    plain.set_weights([v.numpy() for v in model.weights if v is not draws])
    assert_equal(encoded(model, batch), encoded(plain, batch), atol=0)


@pytest.mark.parametrize("size", sizes.VLMOE_NAMES)
def test_each_named_size_is_a_model(size):
    with without_memory():
        model = VlMoe.from_size(size, vocabulary_size=100, num_experts=2, num_codes=7)
    values = sizes.vlmoe_values(size)
    fused = [len(block.feed_forward.layers) == 3 for block in model.encoder.blocks]
    others = values["depth"] - values["fused_blocks"]
    assert fused == [False] * others + [True] * values["fused_blocks"]


def test_initial_values_shrink_with_depth():
    # A normal that is cut at two standard deviations keeps 0.88 of its own.
    model, expected = VlMoe.from_size("vlmoe-tiny", num_experts=2), 0.88 * 0.02
    blocks = model.encoder.blocks
    for number, block in enumerate(blocks, start=1):
        ends = [block.attention.output_projection.kernel]
        for layer in block.feed_forward.layers:
            sparse = hasattr(layer, "experts")
            ends.append(layer.experts.kernel_out if sparse else layer.mlp_out.kernel)
        for end in ends:
            np.testing.assert_allclose(np.std(end), expected / np.sqrt(2 * number), rtol=0.05)
        np.testing.assert_allclose(np.std(block.attention.query.kernel), expected, rtol=0.05)
    assert not np.allclose(blocks[0].attention.query.kernel, blocks[0].attention.key.kernel)
    embedded = model.text_embed.embeddings, model.image_embed.positions
    np.testing.assert_allclose([*map(np.std, embedded)], expected, rtol=0.1)
    plain = VlMoe.from_size("vlmoe-tiny", num_experts=2, init_stddev=None)
    assert np.std(plain.encoder.blocks[0].attention.query.kernel) > 2 * expected
