"""The job that prunes experts, on a run with a checkpoint."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import gin
from limoe_tf.evaluate import prune
from limoe_tf.train.checkpoint import Checkpoints
from tests.shared.small_runs import ROOT, few_shapes, flat
from tpu_jobs import gin_files, prune_experts

QUICKSTART = ROOT / "gin/runs/quickstart.gin"


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of quickstart.gin that has a checkpoint, not trained; returns folder and bindings."""
    folder = tmp_path_factory.mktemp("pruned")
    with few_shapes(folder) as bindings:
        built = build(bindings)
        built.make_vocabulary(str(folder))
    random = np.random.default_rng(0)
    for variable in built.model.trainable_variables:
        variable.assign(random.normal(scale=0.5, size=variable.shape))
    built.model.compile("sgd")
    Checkpoints(built.model, folder / "checkpoints").save()
    return folder, bindings


def build(bindings):
    gin_files.parse([str(QUICKSTART)], bindings)
    built = gin_files.build()
    gin.clear_config()
    return built


def test_the_job_writes_a_model_that_gives_the_numbers_it_reports(small_run, tmp_path):
    folder, bindings = small_run
    command = [sys.executable, "-m", "tpu_jobs.prune_experts", f"--gin_file={QUICKSTART}"]
    command += [f"--workdir={folder}", f"--output={tmp_path}/image", "--modality=image"]
    command += ["--coverage=0.6", *(f"--gin_param={binding}" for binding in bindings)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "image" / "pruned.json").read_text())
    kept, share = found["kept"]["block_01"], np.array(found["shares"]["block_01"])
    assert found["how"] == {
        "modality": "image", "step": 0, "coverage": 0.6, "min_share": None,
        "routed_task": "zero_shot",
    }  # fmt: skip
    assert 0.6 <= share[kept].sum() < 0.6 + share[kept].min()
    smaller = keras.models.load_model(tmp_path / "image" / "model.keras")
    built = build(bindings)
    Checkpoints(built.model, folder / "checkpoints", weights_only=True).restore_latest()
    vocabulary = built.load_vocabulary(str(folder))
    both = prune.combined(built.model, smaller, modality="image")
    for part, model, by in (("before", built.model, built.model), ("after", smaller, both)):
        sizes = {"experts": {"block_01": 8 if part == "before" else len(kept)}}
        tasks = {name: built.tasks[name](by, vocabulary) for name in ("zero_shot", "retrieval")}
        parameters = sum(np.prod(variable.shape) for variable in model.trainable_variables)
        reported, wanted = flat(found[part]), flat({**tasks, **sizes, "parameters": parameters})
        # The job's process rewrites its graphs, so that probabilities are rounded at other places.
        rounded = {name for name in wanted if "calibration_error" in name}
        assert len(rounded) == 2
        for name in rounded:
            assert reported.pop(name) == pytest.approx(wanted.pop(name), rel=1e-4)
        assert reported == wanted
    table = (tmp_path / "image" / "pruned.md").read_text()
    assert table in done.stdout
    parameters = f"{found['before']['parameters']} | {found['after']['parameters']}"
    assert f"| parameters | {parameters} |" in table


def test_texts_are_pruned_by_the_captions_of_a_source(small_run, tmp_path):
    folder, bindings = small_run
    run = build(bindings)
    found = prune_experts.run(
        run, str(folder), str(tmp_path / "text"), modality="text", min_share=0.1
    )
    assert found["how"]["routed_task"] == "retrieval"
    assert found["after"]["parameters"] < found["before"]["parameters"]
    smaller = keras.models.load_model(tmp_path / "text" / "model.keras")
    assert smaller.modalities == ("text",)


def test_what_the_job_lacks_is_named(small_run, tmp_path):
    folder, bindings = small_run
    run = build(bindings)
    with pytest.raises(ValueError, match="--output must be given"):
        prune_experts.run(run, str(folder), None, modality="image")
    with pytest.raises(ValueError, match="`modality` must be one of 'image', 'text'. .*=None"):
        prune_experts.run(run, str(folder), str(tmp_path), modality=None)
    with pytest.raises(ValueError, match="`routed_task` must be one of 'retrieval'.*'zero_shot'"):
        name = "zero_shot"
        prune_experts.run(run, str(folder), str(tmp_path), modality="text", routed_task=name)
    with pytest.raises(ValueError, match="`workdir` must hold a checkpoint"):
        prune_experts.run(run, str(tmp_path), str(tmp_path), modality="image")
    run.tasks = {"success_rate": run.tasks["success_rate"]}
    with pytest.raises(ValueError, match="must have a retrieval or, .*success_rate.*'image'"):
        prune_experts.run(run, str(folder), str(tmp_path), modality="image")
