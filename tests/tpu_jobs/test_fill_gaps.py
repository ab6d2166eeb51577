"""A small run of VL-MoE: trained, cut off and gone on, evaluated, and its gaps filled."""

import json

import numpy as np
import pytest
import tensorflow as tf

import gin
from limoe_tf.model.patch_codes import PatchCodebook
from tests.shared.small_runs import ROOT, call, the_error
from tpu_jobs import evaluate, evaluation, export, fill_gaps, gin_files, train

QUICKSTART = ROOT / "gin/runs/vlmoe_quickstart.gin"


@pytest.fixture(scope="module")
def run(vlmoe_run):
    return vlmoe_run


def test_a_run_leaves_its_losses_beside_their_floors(run):
    results = json.loads((run[0] / "results.json").read_text())
    masked, fusion = results["masked"], results["fusion"]
    assert {"mlm", "mim", "vlm_text", "vlm_image", "floors"} <= set(masked)
    assert 0 < masked["floors"]["entropy"] <= np.log(6)
    assert set(fusion) == {"colour", "shape", "size"}
    assert 0.5 < fusion["colour"]["floor"] <= np.log(6)
    last = json.loads((run[0] / "metrics.jsonl").read_text().splitlines()[-1])
    # What is dropped, by pretraining task, layer and modality.
    for stream in ("image", "text", "pair_image", "pair_text"):
        assert 0 < last[f"block_00/{stream}/success_rate_{stream}"] <= 1
    reader = tf.train.load_checkpoint(str(run[0] / "checkpoints" / "ckpt-4"))
    stored = json.loads(reader.get_tensor("companions/.ATTRIBUTES/VARIABLE_VALUE"))
    assert stored["codebook"] == PatchCodebook(str(run[0] / "codebook.npz")).sha256


def interrupt(model, vocabulary):
    raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_weights(run, tmp_path):
    whole, bindings = run
    gin_files.parse([str(QUICKSTART)], bindings)
    cut = gin_files.build()
    cut.tasks, cut.evaluate_every_steps = {"interrupt": interrupt}, 3
    with pytest.raises(KeyboardInterrupt):
        train.train(cut, str(tmp_path))
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")).endswith("ckpt-2")
    assert call(train, QUICKSTART, tmp_path, bindings) == 0
    expected, found = (
        tf.train.load_checkpoint(str(folder / "checkpoints" / "ckpt-4"))
        for folder in (whole, tmp_path)
    )
    names = set(expected.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert any("block_01/draws" in name for name in names)
    for name in names:
        np.testing.assert_array_equal(found.get_tensor(name), expected.get_tensor(name), name)


def test_the_gaps_are_drawn_and_printed(run, tmp_path, capsys):
    experiment = evaluation.of_run(str(run[0]))
    output = str(tmp_path / "filled.png")
    found = fill_gaps.fill_gaps(experiment, str(run[0]), output=output, num_pairs=3)
    assert tf.io.decode_png(tf.io.read_file(output)).shape[0] > 200
    printed = capsys.readouterr().out
    for one in found:
        right, count = one.right
        assert 0 <= right <= count
        assert count == one.gaps.count("____") == one.words.count("[") > 0
        assert one.gaps in printed and one.words in printed
        masked = (one.shown != one.image).any(axis=-1)
        # 2 of 16 patches of 16 x 16 pixels; one in the very grey would not show.
        assert 256 < masked.sum() <= 2 * 256
        assert (one.filled[~masked] == one.image[~masked]).all()
    gin.clear_config()


def test_a_run_is_evaluated_with_its_own_codebook(run, capsys):
    assert call(evaluate, QUICKSTART, run[0], run[1]) == 0
    path = run[0] / "codebook.npz"
    kept, centres = path.read_bytes(), np.load(path)["centres"]
    np.savez(path, centres=centres + 1, patch_size=16)
    try:
        assert call(evaluate, QUICKSTART, run[0], run[1]) == 1
        assert "Weights must meet the codebook with which they were trained" in the_error(capsys)
    finally:
        path.write_bytes(kept)


def test_what_is_for_models_that_contrast_says_so(run):
    with pytest.raises(ValueError, match="a model that contrasts images with texts.*VlMoe"):
        export.export(evaluation.of_run(str(run[0])), str(run[0]), f"{run[0]}/exported")
    gin.clear_config()


def test_another_model_has_no_gaps_to_fill(shapes_run):
    experiment = evaluation.of_run(str(shapes_run[0]))
    with pytest.raises(ValueError, match="of a VlMoe .*Received: Limoe"):
        fill_gaps.fill_gaps(experiment, str(shapes_run[0]), output="no.png")
    gin.clear_config()


@pytest.mark.parametrize(
    "line, message",
    [
        ("experiment.Experiment.num_slices = 2", "`num_slices` is for models that contrast"),
        ("vlmoe.VlMoe.from_size.patch_size = 24", "multiple of `patch_size`"),
        ("sources.TfdsSource.captions = None", "must have captions"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(run, tmp_path, line, message, capsys):
    assert call(train, QUICKSTART, tmp_path / "no", [*run[1], line]) == 1
    assert message in the_error(capsys)
    assert not (tmp_path / "no" / "checkpoints").exists()
