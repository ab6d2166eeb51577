"""What VL-MoE refuses: batches, codebooks and values that do not fit."""

import numpy as np
import pytest

from limoe_tf.model.vlmoe import VlMoe
from tests.shared import tiny
from tests.shared.masked import shown

DENSE = ("dense", "dense")


def without(*names):
    return lambda batch: {k: v for k, v in batch.items() if k not in names}


@pytest.mark.parametrize(
    "change, fault",
    [
        (without("text"), "unknown or incomplete: .*'text'"),
        (without("text_valid"), r"unknown or incomplete: \['text_valid'\]"),
        (without("lone_text_valid"), r"unknown or incomplete: \['lone_text_valid'\]"),
        (without("text_masked_present"), r"incomplete: \['text_masked_present'\]"),
        (without("lone_text_shown"), r"incomplete: \['lone_text_shown'\]"),
        (without("lone_image"), r"incomplete: \['lone_image'\]"),
        (without("image", "image_masked"), r"incomplete: \['image and text'\]"),
        (lambda batch: {**batch, "label": batch["text"]}, r"incomplete: \['label'\]"),
        (lambda batch: {}, r"keys=\[\], unknown or incomplete: \['image and text'\]"),
    ],
)
def test_keys_that_are_unknown_or_incomplete_are_refused(change, fault):
    with pytest.raises(ValueError, match=fault):
        tiny.vlmoe(plan=DENSE)(change(tiny.masked_batch(2)))


def test_a_batch_of_which_nothing_is_masked_cannot_train():
    with pytest.raises(ValueError, match="must say what is masked, .*Received: keys=.*'image'"):
        tiny.vlmoe(plan=DENSE).forward(shown(tiny.masked_batch(2)), training=False)


def test_ids_pixels_and_texts_without_a_word_are_refused():
    model, batch = tiny.vlmoe(plan=DENSE), tiny.masked_batch(4)
    model.check_values(batch)
    ends = batch["lone_text_valid"].copy()
    ends[1:3] = [True, False, False, False, False]
    faults = {
        "none in 2 texts, number 1 first": {"lone_text_valid": ends},
        "ids from .* to 19": {"text": np.full([4, 5], 19, "int32")},  # The mask is no word.
        "must be uint8. Received: a value of 40": {"lone_image": np.full([4, 16, 16, 3], 40.0)},
    }
    for fault, change in faults.items():
        with pytest.raises(ValueError, match=fault):
            model.check_values({**batch, **change})


def test_a_codebook_must_be_there_fit_and_stay_the_same():
    model = VlMoe(**tiny.VLMOE_VALUES)
    model.compile("sgd")
    batch = tiny.masked_tensors(2)
    for use in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match="must be given a codebook, by `use_codebook`"):
            use(batch)
    with pytest.raises(ValueError, match="must be given a codebook"):
        model.patch_targets(batch["image"])
    first = tiny.codebook()
    for other in (first._replace(patch_size=8), tiny.codebook(4)):
        with pytest.raises(ValueError, match="must be that of .*'num_codes': 5, 'patch_size': 4"):
            model.use_codebook(other)
    model.use_codebook(first)
    assert model.companions == {"codebook": "0" * 64}
    with pytest.raises(ValueError, match="must meet the codebook with which they were trained"):
        model.use_codebook(first._replace(sha256="1" * 64))
    np.testing.assert_array_equal(model.patch_codes.centres, first.centres)


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"fused_blocks": 3}, "`fused_blocks` must be between 0 and 2. Received: .*=3"),
        ({"patch_targets": "words"}, "`patch_targets` must be one of 'codes', 'pixels'.*'words'"),
        ({"patch_share": 1.5}, "`patch_share` must be between 0 and 1. Received: .*=1.5"),
        ({"text_length": 1}, "`text_length` must be at least 2. Received: text_length=1"),
        ({"plan": ("dense",)}, "`plan` must have an entry for each of depth=2 blocks"),
        ({"drop_path": 1.0}, "`drop_path` must be between 0 and 0.99. Received: drop_path=1.0"),
    ],
)
def test_constructor_values_that_make_no_sense_are_refused(changes, fault):
    with pytest.raises(ValueError, match=fault):
        tiny.vlmoe(**changes)


def test_a_size_that_is_not_known_and_slices_are_refused():
    with pytest.raises(ValueError, match="`size` must be one of 'vlmoe-tiny', .*size='VL-MoE-BIG'"):
        VlMoe.from_size("VL-MoE-BIG")
    with pytest.raises(ValueError, match="`num_slices` is for models that contrast .*num_slices=2"):
        tiny.vlmoe(plan=DENSE).compile("sgd", num_slices=2)
