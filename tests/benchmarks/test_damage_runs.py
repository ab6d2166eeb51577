"""Damaged folders of runs: a few of the many that `python -m benchmarks.damage_runs` tries."""

import random

import pytest

from benchmarks import damage_runs


def test_a_start_from_a_damaged_folder_goes_on_or_refuses(tmp_path):
    said = []
    done = damage_runs.compare(tmp_path, count=12, seed=1, progress=said.append)
    assert sum(done.values()) == len(said) == 12
    assert set(done) >= {"goes on from the newest with a warning", "refused"}


def test_a_start_at_step_0_and_wrong_weights_are_faults(tmp_path, monkeypatch):
    run = damage_runs.Run(tmp_path / "sound")
    monkeypatch.setattr(run, "start", lambda folder: 0)
    assert damage_runs.fault_of(run, run.folder)[0] == "begins at step 0"
    monkeypatch.setattr(run, "start", lambda folder: 4)  # The model holds step 6.
    assert damage_runs.fault_of(run, run.folder)[0] == "variable 0 is not that of step 4"


@pytest.mark.parametrize("kind", damage_runs.KINDS)
def test_each_kind_of_damage_changes_the_folder(tmp_path, kind):
    (tmp_path / "checkpoints").mkdir()
    for step in damage_runs.STEPS:
        for ending in damage_runs.ENDINGS:
            (tmp_path / "checkpoints" / f"ckpt-{step}{ending}").write_bytes(b"%d" % step * 60)
    for name in ("checkpoints/checkpoint", "metrics.jsonl"):
        (tmp_path / name).write_bytes(b"text")

    def content():
        return {
            path: path.is_file() and path.read_bytes()
            for path in sorted(tmp_path.rglob("*"))
        }  # fmt: skip

    before = content()
    kind(random.Random(0), tmp_path)
    assert content() != before
