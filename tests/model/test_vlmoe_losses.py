"""The losses of VL-MoE: asked at masked places alone, with a name and a weight each."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.vlmoe import LOSSES
from tests.shared import tiny
from tests.shared.masked import encoded, part, shaken

DENSE = ("dense", "dense")


def test_losses_are_those_of_the_heads_at_masked_places():
    model, batch = shaken(tiny.vlmoe()), tiny.masked_batch()
    report, streams = model.forward(batch, training=False), encoded(model, batch)
    codes = model.patch_targets(tf.constant(batch["lone_image"])).numpy()
    losses, hits = {"mim": [], "vlm_text": []}, {"mim": [], "vlm_text": []}

    def ask(name, logits, answer):
        losses[name].append(np.log(np.exp(logits).sum()) - logits[answer])
        hits[name].append(logits.argmax() == answer)

    logits = model.patch_head(streams["image"]).numpy()
    words = model.word_head(streams["pair_text"], model.text_embed.embeddings).numpy()
    for example in range(6):
        for place in batch["lone_image_masked"][example]:
            ask("mim", logits[example, 1 + place], codes[example, place])
        for place in batch["text_masked"][example][batch["text_masked_present"][example]]:
            ask("vlm_text", words[example, 1 + place], batch["text"][example, place])
    assert len(losses["mim"]) == 36 and 6 < len(losses["vlm_text"]) < 12
    for name, values in losses.items():
        np.testing.assert_allclose(report.losses[name], np.mean(values), rtol=1e-5)
        np.testing.assert_allclose(report.metrics[f"{name}_accuracy"], np.mean(hits[name]))


# Each loss of a call with the names of its streams behind it.
APART = {
    "text": ["text"],
    "image": ["image"],
    "pair_text": ["pair_text"],
    "pair_image": ["pair_image"],
}
TOGETHER = {"text": ["text", "pair_text"], "image": ["image", "pair_image"]}


@pytest.mark.parametrize("together, calls", [(False, APART), (True, TOGETHER)])
def test_losses_are_named_by_call_and_have_a_weight_each(together, calls):
    model = tiny.vlmoe(plan=("sparse", "dense"), route_together=together)
    report = model.forward(tiny.masked_tensors(), training=True)
    expected = set(LOSSES)
    for name, streams in calls.items():
        kinds = ["importance", "load", "z", *["mutual_information"] * (len(streams) > 1)]
        kinds += [f"{span}_entropy_{one}" for span in ("local", "global") for one in streams]
        expected |= {f"block_00/{name}/{kind}" for kind in kinds}
    assert set(report.losses) == expected
    loss, _ = model.loss_and_logs(report, model.default_weights)
    weighted = {**dict.fromkeys(LOSSES, 1.0)}
    for name in calls:
        text = name.endswith("text")
        weighted[f"block_00/{name}/importance"] = 0.0 if text else 0.005
        weighted[f"block_00/{name}/load"] = 0.01 if text else 0.005
    terms = [weight * float(report.losses[name]) for name, weight in weighted.items()]
    np.testing.assert_allclose(loss, sum(terms), rtol=1e-6)
    rates = {name for name in report.metrics if name.startswith("success_rate_")}
    assert rates == {f"success_rate_{one}" for streams in calls.values() for one in streams}


def test_streams_that_are_routed_together_compete_for_slots():
    changes = {"plan": ("sparse", "dense"), "capacity_factor": 0.3, "router_noise": 0.0}
    batch, rates = tiny.masked_tensors(), {}
    for together in (False, True):
        model = tiny.vlmoe(**changes, route_together=together)
        image_alone = model.forward(part(batch, "lone_image"), training=True)
        rates[together] = [
            float(found.metrics["success_rate_image"])
            for found in (image_alone, model.forward(batch, training=True))
        ]
    assert rates[False][0] == rates[False][1]
    assert rates[True][0] != rates[True][1]


def test_pixels_are_the_targets_if_they_are_asked_for():
    model, batch = tiny.vlmoe(patch_targets="pixels"), tiny.masked_batch()
    report = model.forward(batch, training=False)
    assert {name for name in report.metrics if name.endswith("_accuracy")} == {
        "mlm_accuracy", "vlm_text_accuracy",
    }  # fmt: skip
    found = model.patch_targets(tf.constant(batch["image"])).numpy()
    corner = batch["image"][:, 4:8, 8:12].reshape(6, 48) / 127.5 - 1  # Row 1, column 2 of 4.
    np.testing.assert_allclose(found[:, 6], corner, atol=1e-6)
    with pytest.raises(ValueError, match="patch_targets='codes'. Received: 'made/up.npz' for 'pi"):
        model.use_codebook(tiny.codebook())


def test_words_that_are_not_tied_leave_the_embeddings_of_other_words_alone():
    batch = part(tiny.masked_tensors(), "lone_text")
    # Word pieces, the end of a sentence, the mask and the class token; not padding.
    read = {*batch["lone_text_shown"].numpy()[batch["lone_text_valid"]], 20}
    assert len(read) < 17
    for tied in (True, False):
        model = tiny.vlmoe(plan=DENSE, tied_words=tied)
        _, found = model.differentiate(batch, model.default_weights)
        paths = [v.path.split("/", 1)[1] for v in model.trainable_variables]
        gradient = found[paths.index("text_embed/embeddings")]
        moved = np.abs(tf.convert_to_tensor(gradient)).max(axis=1) > 0
        assert set(np.flatnonzero(moved)) == ({*range(19), *read} if tied else read)


def test_a_batch_of_its_spec_is_what_the_model_reads():
    model = tiny.vlmoe()
    spec = model.batch_spec(3)
    zeros = {name: tf.zeros(one.shape, one.dtype) for name, one in spec.items()}
    report = model.forward(zeros, training=True)
    assert set(LOSSES) <= set(report.losses)
    made = tiny.masked_batch(3)
    assert {k: (tuple(v.shape), v.dtype.name) for k, v in spec.items()} == {
        k: (v.shape, v.dtype.name) for k, v in made.items()
    }
    assert model.batch_spec(None)["text_masked"].shape.as_list() == [None, 2]
    other = tiny.vlmoe(pair_patch_share=0.75, pair_word_share=0.25).batch_spec(2)
    masked = {k: v.shape[1] for k, v in other.items() if k.endswith("_masked")}
    assert masked == {
        "image_masked": 12,
        "lone_image_masked": 6,
        "text_masked": 1,
        "lone_text_masked": 1,
    }
    assert model.data_options == {
        "image_size": 16, "patch_size": 4,
        "word_share": 0.15, "pair_word_share": 0.5, "patch_share": 0.4, "pair_patch_share": 0.4,
    }  # fmt: skip
