"""The overview of a layer's experts: what is said of each, and which are shown."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.analyze import overview
from limoe_tf.analyze.findings import Findings, find
from limoe_tf.analyze.tally import ModalityTally
from tests.shared import tiny

NAMES = ["red", "blue", "ring", "(padding)"]


def findings_of(chosen):
    """Findings of a layer without images, of how many tokens of each piece an expert takes."""
    tally = ModalityTally(len(chosen), len(NAMES))
    tally.chosen += np.array(chosen)
    return Findings({"text": tally}, None, {"text": 0.0})


def test_typical_words_are_those_of_which_an_expert_takes_much():
    # Of 4 experts an even share is a quarter: half of a piece is enough, a third is not. "red" has
    # 9 tokens, "blue" 10, "ring" 4.
    found = findings_of([[3, 9, 0, 0], [6, 1, 2, 0], [0, 0, 2, 0], [0, 0, 0, 0]])
    words = [overview.words_of(expert, found, NAMES) for expert in range(4)]
    assert words == [["blue"], ["red", "ring"], ["ring"], []]


def test_of_many_experts_twice_an_even_share_is_enough():
    # An eighth is even among 8: 3 of 12 tokens are twice that, 2 are not.
    chosen = np.zeros([8, 4], int)
    chosen[:, 0] = [3, 2, 2, 1, 1, 1, 1, 1]
    assert overview.words_of(0, findings_of(chosen), NAMES) == ["red"]
    assert overview.words_of(1, findings_of(chosen), NAMES) == []


def test_the_picture_says_in_words_what_it_shows():
    picture = overview.overview("block_01", findings_of([[3, 1, 0, 0], [0, 0, 1, 0]]), NAMES)
    assert picture.name == "block_01_overview"
    assert picture.alternative == (
        "Expert 0, text: 80% of the text tokens, such as red, blue. "
        "Expert 1, text: 20% of the text tokens, such as ring."
    )


def test_of_many_experts_those_with_the_largest_shares_are_shown(monkeypatch):
    monkeypatch.setattr(overview, "MAX_EXPERTS", 2)
    picture = overview.overview("a/b", findings_of([[1] * 4, [0] * 4, [5] * 4]), NAMES)
    assert picture.name == "a_b_overview"
    assert "Expert 0" in picture.alternative and "Expert 2" in picture.alternative
    assert "Expert 1" not in picture.alternative
    assert "of 3 those with the largest shares" in picture.caption


@pytest.mark.parametrize("options", [{}, {"routing": "experts_per_modality"}])
def test_each_expert_has_a_row_of_pixels(options):
    found, _ = find(tiny.limoe(**options), [tiny.tensors()])
    for layer, one in found.items():
        picture = overview.overview(layer, one, [str(number) for number in range(20)])
        pixels = tf.io.decode_png(picture.data).numpy()
        rows = np.array_split(pixels, len(one.experts))
        assert all((row < 128).any() for row in rows)
