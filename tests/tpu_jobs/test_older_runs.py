"""A run that version 0.1.0 has left goes on, is evaluated and exported."""

import json
import tarfile

import keras
import pytest

from limoe_tf.train.callbacks import read_records
from tests.shared.small_runs import ROOT, call
from tpu_jobs import evaluate, evaluation, export, train


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of the run, beside which lie its data."""
    with tarfile.open(ROOT / "tests/shared/run_of_0_1_0.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)  # Its config.gin names the data as `pairs`.
    return tmp_path / "run"


def test_a_run_of_0_1_0_is_read_and_gone_on_with(run, capsys):
    assert call(evaluate, None, run, [], gin_file=[]) == 0
    before, found = (json.loads((run / f"{n}.json").read_text()) for n in ("results", "evaluation"))
    assert found["step"] == before["step"] == 4
    for modality in ("image", "text"):
        expected = before["success_rate"][modality]
        assert found["success_rate"][modality] == pytest.approx(expected, abs=0.02)
    written = str(run / "model.keras")
    export.export(evaluation.of_run(str(run)), str(run), written, form="keras")
    loaded = keras.models.load_model(written, compile=False)
    assert loaded.num_parameters == before["parameters"]

    capsys.readouterr()
    assert call(train, run / "config.gin", run, ["STEPS = 6"]) == 0
    shown = capsys.readouterr().out
    assert "starting at step 4" in shown
    assert "Other settings from step 4 on: experiment.Experiment.steps = 6 (was 4)" in shown
    assert "order of the data" not in shown
    assert [record["step"] for record in read_records(str(run / "metrics.jsonl"))] == [*range(1, 7)]
    assert (run / "checkpoints" / "ckpt-6.index").exists()
    assert "# Until step 4: experiment.Experiment.steps = 4\n" in (run / "config.gin").read_text()
