"""The page of a small run of VL-MoE: what is dropped by pretraining task, block and modality."""

import pytest

import gin
from limoe_tf.tokens import modality_of
from tests.tpu_jobs.test_analyze import assert_stands_alone, rows
from tpu_jobs import analyze, evaluation


@pytest.fixture(scope="module")
def inside(vlmoe_run):
    """Looks inside a run whose first block is sparse; returns the folder."""
    folder = str(vlmoe_run[0])
    analyze.analyze(evaluation.of_run(folder), folder, source="fusion")
    gin.clear_config()
    return vlmoe_run[0] / "inside"


def test_what_is_dropped_is_told_by_task_and_modality(inside):
    layers = rows(inside / "layers.csv")
    assert [(row["layer"], row["modality"]) for row in layers] == [
        ("block_00/text", "text"),
        ("block_00/text", "pair_text"),
        ("block_00/image", "image"),
        ("block_00/image", "pair_image"),
    ]
    # Of 30 scenes 7 batches of 4: 16 patches and a class token.
    assert [int(row["tokens"]) for row in layers[2:]] == [28 * 17] * 2
    # The loss of the entropies has no weight.
    assert {row["threshold"] for row in layers} == {""}
    for name in ("experts.csv", "tokens.csv"):
        for row in layers:
            same = [one for one in rows(inside / name) if one["modality"] == row["modality"]]
            for column in ("choices", "dropped"):
                assert sum(int(one[column]) for one in same) == int(row[column])
    page = (inside / "index.html").read_text()
    for row in layers:
        share = 100 * int(row["dropped"]) / int(row["choices"])
        assert f"block_00 {row['modality']} {share:.2f}%" in page
    assert "threshold" not in page


def test_what_is_masked_is_no_word_and_has_no_picture(inside):
    tokens = rows(inside / "tokens.csv")
    of_texts = [row for row in tokens if modality_of(row["modality"]) == "text"]
    names = {row["token"] for row in of_texts}
    assert {"(mask)", "(class)", "(end)"} <= names and "(padding)" not in names
    places = {row["token"] for row in tokens if row["modality"] == "pair_image"}
    assert places == {
        "(class)", *(f"row {row}, column {column}" for row in range(4) for column in range(4)),
    }  # fmt: skip


def test_the_page_of_four_streams_stands_alone(inside):
    text = (inside / "index.html").read_text()
    assert_stands_alone(text)
    assert "28 pairs of grid_scenes/40k/test, and as many images alone and texts alone" in text
    names = {path.name for path in (inside / "images").iterdir()}
    assert names >= {
        *("entropies.png", "ranks.png", "dropped.png", "success_rate_over_steps.png"),
        *("block_00_image_shares.png", "block_00_text_overview.png"),
    }
    assert text.count("<img") == len(names)
