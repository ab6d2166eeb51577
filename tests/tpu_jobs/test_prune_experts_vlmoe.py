"""The job that prunes experts, on a small run of VL-MoE."""

import json
import types

import keras
import numpy as np
import pytest

import gin
from tests.shared import tiny
from tpu_jobs import evaluation, prune_experts


def test_a_run_loses_experts_of_texts_and_keeps_all_streams(vlmoe_run, tmp_path):
    folder = str(vlmoe_run[0])
    run = evaluation.of_run(folder)
    gin.clear_config()
    run.tasks = {"masked": run.tasks["masked"]}
    options = {"coverage": 0.5, "with_pairs": True}
    prune_experts.run(run, folder, str(tmp_path), modality="text", **options)
    found = json.loads((tmp_path / "pruned.json").read_text())
    assert found["how"] == {
        "modality": "text", "step": 4, "coverage": 0.5, "min_share": None,
        "routed_task": "masked", "with_pairs": True,
    }  # fmt: skip
    kept, share = found["kept"]["block_00"], np.array(found["shares"]["block_00"])
    assert 0.5 <= share[kept].sum() < 0.5 + share[kept].min() and len(kept) < 4
    before, after = found["before"], found["after"]
    # Width and hidden width 16.
    expert = 16 * 16 + 16 + 16 * 16 + 16
    assert before["parameters"] - after["parameters"] == (4 - len(kept)) * (expert + 16)
    # Images alone do not meet the experts of texts.
    assert after["masked"]["mim"] == pytest.approx(before["masked"]["mim"], rel=1e-5)
    assert after["masked"]["mlm"] != before["masked"]["mlm"]
    smaller = keras.models.load_model(tmp_path / "model.keras")
    assert smaller.companions == run.model.companions
    images = np.zeros([2, 64, 64, 3], "uint8")
    np.testing.assert_allclose(
        smaller.encode_image(images), run.model.encode_image(images), atol=1e-5
    )


def test_pairs_are_for_a_model_that_encodes_them():
    run = types.SimpleNamespace(model=tiny.limoe(), tasks={})
    with pytest.raises(ValueError, match="`with_pairs` must be False .*with_pairs=True for Limoe"):
        prune_experts.run(run, "run", "output", modality="text", with_pairs=True)


def test_a_model_without_streams_of_images_and_texts_is_refused():
    run = types.SimpleNamespace(model=types.SimpleNamespace(stream_keys={}), tasks={})
    with pytest.raises(
        ValueError, match="must be of a Limoe, a TwoTower or a VlMoe. Received: Simp"
    ):
        prune_experts.run(run, "run", "output", modality="text")
