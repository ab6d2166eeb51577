"""The comparison of starts: its runs are what they say, and its tables hold their numbers."""

import json

import pytest

import gin
from benchmarks import starts
from tests.shared.small_runs import ROOT
from tpu_jobs import gin_files


@pytest.mark.parametrize("name", starts.bindings_of(ROOT, 10))
def test_the_lines_of_each_run_are_good(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    gin_files.parse([starts.QUICKSTART], starts.bindings_of(tmp_path, 10)[name])
    begins = name not in ("dense", "softmax", "sigmoid")
    bound = gin.get_bindings("experiment.Experiment", resolve_references=False)
    assert bound.get("init_from") == (str(tmp_path / "dense") if begins else None)
    gin.clear_config()


def test_finished_runs_are_read_and_not_trained_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(starts.jobs, "start", None)
    for number, name in enumerate(starts.TABLES["loss"], 1):
        (tmp_path / "20" / name).mkdir(parents=True)
        results = {
            "step": 20,
            "zero_shot": {"seen": number / 10, "unseen": 0.01},
            "retrieval": {way: {"recall_at_1": 0.5} for way in ("text_to_image", "image_to_text")},
        }
        (tmp_path / "20" / name / "results.json").write_text(json.dumps(results))
        # The last tenth of 20 steps are two, with losses of 1 and 2.
        losses = [9.0] + [5.0] * 17 + [1.0, 2.0]
        lines = [
            json.dumps({"step": step, "seconds": 1, "contrastive": loss})
            for step, loss in enumerate(losses, 1)
        ]
        (tmp_path / "20" / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found = starts.measure(tmp_path, only=["loss"], steps=20)
    assert json.loads((tmp_path / "20" / "starts.json").read_text()) == found
    assert "| sigmoid | 9.000 | 1.500 | 20.0% | 1.0% | 50.0% | 50.0% |" in capsys.readouterr().out


def test_a_run_that_fails_says_why(tmp_path, monkeypatch):
    class Failed:
        def wait(self, seconds):
            (tmp_path / "20" / "softmax.log").write_text("error: no such thing")
            return 1

    monkeypatch.setattr(starts.jobs, "start", lambda *_: Failed())
    with pytest.raises(RuntimeError, match="The run softmax failed: error: no such thing"):
        starts.measure(tmp_path, only=["loss"], steps=20)
