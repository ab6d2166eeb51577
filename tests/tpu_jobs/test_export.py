"""The export job on a run: both formats, the run's own configuration, and the way back."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import shapes
from limoe_tf.export.saved_model import METADATA
from limoe_tf.train.checkpoint import Checkpoints
from tests.shared.small_runs import ROOT, call, few_shapes
from tpu_jobs import export, gin_files, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of quickstart.gin on a few shapes, on two replicas."""
    folder = tmp_path_factory.mktemp("shapes")
    with few_shapes(folder) as bindings:
        quickstart = ROOT / "gin/runs/quickstart.gin"
        assert call(train, quickstart, folder / "run", bindings, replicas=2) == 0
    return folder / "run"


def described(run):
    gin_files.parse([str(run / "config.gin")], [])
    return gin_files.build()


def test_the_job_needs_only_the_folder_of_a_run(run, tmp_path):
    output = tmp_path / "new" / "model"
    command = [sys.executable, "-m", "tpu_jobs.export", f"--workdir={run}", f"--output={output}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"the model of step 6: {output}"
    metadata = json.loads((output / METADATA).read_text())
    assert metadata["step"] == 6
    assert metadata["templates"] == ["a {}", "a picture of a {}", "a drawing of a {}"]
    assert "Limoe.from_size.width = 16" in metadata["gin"]
    assert metadata["license"]["weights"] == "unspecified"
    signatures = tf.saved_model.load(str(output)).signatures
    pixels = np.stack([shapes.render("test", index).image for index in range(3)])
    found = signatures["encode_image"](images=tf.constant(pixels))["embeddings"]
    model = described(run).model
    Checkpoints(model, run / "checkpoints", weights_only=True).restore_latest()
    np.testing.assert_allclose(found, model.encode_image(pixels), atol=1e-5)


def test_weights_go_to_a_keras_file_and_back_to_a_checkpoint(run, tmp_path):
    path = str(tmp_path / "model.keras")
    older = str(run / "checkpoints" / "ckpt-4")
    export.export(described(run), str(run), path, form="keras", checkpoint=older)
    expected = described(run).model
    Checkpoints(expected, run / "checkpoints", weights_only=True).restore(older)
    loaded = keras.models.load_model(path, compile=False)
    for value, wanted in zip(loaded.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(value, wanted)
    written = export.from_keras(described(run), str(tmp_path / "other"), path)
    assert written == str(tmp_path / "other" / "checkpoints" / "ckpt-0")
    again = described(run)
    again.model.compile(again.optimizer)
    # With the state of the optimizer, so that training can start from it.
    assert Checkpoints(again.model, tmp_path / "other" / "checkpoints").restore_latest() == 0
    for value, wanted in zip(again.model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_what_stands_in_the_way_is_named(run, tmp_path):
    path = tmp_path / "model.keras"
    with pytest.raises(ValueError, match="`workdir` must hold a checkpoint"):
        export.export(described(run), str(tmp_path), str(path), form="keras")
    with pytest.raises(ValueError, match="`output` must end in .keras"):
        export.export(described(run), str(run), str(tmp_path / "model"), form="keras")
    path.write_text("mine")
    with pytest.raises(ValueError, match="`output` must not exist yet"):
        export.export(described(run), str(run), str(path), form="keras")
    assert path.read_text() == "mine"
    export.export(described(run), str(run), str(path), form="keras", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]
    with pytest.raises(ValueError, match="`workdir` must not hold a checkpoint"):
        export.from_keras(described(run), str(run), str(path))
    with pytest.raises(ValueError, match="`from_keras` must be an existing file"):
        export.from_keras(described(run), str(tmp_path), str(tmp_path / "missing.keras"))
    another = described(run)
    another.model = another.model.from_config({**another.model.get_config(), "embedding_size": 8})
    with pytest.raises(ValueError, match="differs in .*image_head"):
        export.from_keras(another, str(tmp_path / "other"), str(path))
    assert not (tmp_path / "other").exists()
