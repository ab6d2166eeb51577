"""The papers' comparison: rows of equal cost that can be trained, each run once, and the report."""

import json
import re
import subprocess

import pytest

import gin
from benchmarks import papers, papers_report
from limoe_tf.data import shapes
from tests.shared import record_files
from tests.shared.small_runs import ROOT
from tpu_jobs import gin_files

RUNS = papers.runs_of([], [0], [None])
NAME = "sources.TfdsSource.name = 'captioned_shapes'"
ON_SHAPES = [
    NAME,
    "test/sources.TfdsSource.split = 'test'",
    "labelled/sources.TfdsSource.split = 'test'",
    "labelled/sources.TfdsSource.labels = 'labels'",
]
FILES = ("PAIRS", "TEST_PAIRS", "OBJECTS", "TEST_OBJECTS", "CIFAR10", "EMOJI")
NAMES = ("OBJECT_NAMES", "CIFAR10_NAMES")


@pytest.fixture(scope="module")
def lines_of(tmp_path_factory):
    """Returns the lines by which the rows of each data set train on small data."""
    folder = tmp_path_factory.mktemp("data")
    data_dir = f"sources.TfdsSource.data_dir = {json.dumps(str(folder))}"
    on_shapes = [*ON_SHAPES, data_dir]
    pairs = json.dumps(record_files.write_pairs(folder / "pairs", 4))
    (folder / "names.txt").write_text("red circle\nblue star\ngreen square\n", "utf-8")
    names = json.dumps(str(folder / "names.txt"))
    return {
        "icons": on_shapes,
        "scenes": [*on_shapes, "tasks.ZeroShot.groups = None"],
        "masked": [NAME, data_dir],
        "quickstart": [data_dir],
        "photographs": [
            *(f"{name} = {pairs}" for name in FILES),
            *(f"{name} = {names}" for name in NAMES),
            "emoji/sources.TfrecordSource.image = 'jpg'",
            "emoji/sources.TfrecordSource.captions = 'caption'",
        ],
    }


@pytest.fixture(scope="module")
def cost_of():
    return {run.name: papers.cost(run) for run in RUNS}


def test_rows_of_the_same_data_cost_the_same(cost_of):
    assert len(RUNS) == 16
    for run in RUNS:
        dense = cost_of[f"{run.data}/dense_seed_0"]
        own = cost_of[run.name]
        assert own["flops_per_pair"] == pytest.approx(dense["flops_per_pair"], rel=0.03), run
        assert (own["steps"], own["batch_size"]) == (dense["steps"], dense["batch_size"])


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_every_line_of_a_row_has_a_use(run, lines_of, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(shapes, "SPLITS", {"train": 20, "validation": 5, "test": 20})
    gin_files.parse([run.gin_file], [*run.lines, *lines_of[run.data]])
    built = gin_files.build()  # Raises for a line without a use.
    gin.clear_config()
    tasks = {"zero_shot", "retrieval"}
    of_others = {"masked": {"masked", "fusion"}, "quickstart": {*tasks, "success_rate"}}
    assert set(built.tasks) == of_others.get(run.data, tasks)
    assert built.seed == 0


def test_runs_are_of_rows_seeds_and_rates():
    runs = papers.runs_of(["icons/dense", "scenes"], [3], [None, 2e-3])
    assert len(runs) == 2 * 5
    assert runs[0].name == "icons/dense_seed_3"
    assert runs[5] == papers.Run("icons", "dense", 3, 2e-3)
    assert runs[5].name == "icons/dense_rate_0.002_seed_3"
    assert runs[5].lines == ["experiment.Experiment.seed = 3", "LEARNING_RATE = 0.002"]
    with pytest.raises(ValueError, match=r"`only` must be among .* Received: \['photos'\]"):
        papers.runs_of(["photos"], [0], [None])


class Job:
    """A training job that writes what one writes, or fails."""

    def __init__(self, workdir, steps, code=0):
        self.workdir, self.steps, self.code, self.waited = workdir, steps, code, 0

    def wait(self, seconds):
        self.waited += 1
        self.workdir.mkdir(exist_ok=True)
        log = self.workdir / "metrics.jsonl"
        if self.waited < 3:
            record = {"step": self.steps // 4 * self.waited, "seconds": 1, "contrastive": 4.0}
            log.write_text((log.read_text() if log.exists() else "") + json.dumps(record) + "\n")
            raise subprocess.TimeoutExpired("job", seconds)
        recalls = {"recall_at_1": 0.25, "recall_at_10": 0.5}
        results = {
            "step": self.steps,
            "zero_shot": {"all": 0.5},
            "retrieval": {"text_to_image": recalls, "image_to_text": recalls},
            "seconds_of_training": 10.0,
        }
        (self.workdir / "results.json").write_text(json.dumps(results))
        return self.code


def test_runs_are_trained_once_and_reported(tmp_path, monkeypatch, capsys):
    started = []

    def start(gin_file, lines, workdir):
        started.append((gin_file, *lines))
        return Job(workdir, papers.cost(run)["steps"])

    monkeypatch.setattr(papers.jobs, "start", start)
    (run,) = papers.runs_of(["icons/dense"], [0], [None])
    kept = tmp_path / "papers.json"
    found = papers.measure([run], tmp_path, kept=kept)
    assert started == [("gin/papers/icons/dense.gin", "experiment.Experiment.seed = 0")]
    assert re.search(
        r"icons/dense_seed_0: step 1380 of 2760, \d+ minutes left", capsys.readouterr().out
    )
    monkeypatch.setattr(papers.jobs, "start", None)
    # What is kept is not trained again, wherever its folder is.
    again = papers.measure([run], tmp_path / "elsewhere", kept=kept)
    assert again == found == json.loads(kept.read_text())
    assert (
        found[0]["commit"].rstrip("+")
        in subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout
    )
    assert papers.rate(found) == papers_report.flops_of(found[0]["cost"]) / 10

    other = json.loads(json.dumps(found[0])) | {"seed": 1}
    other["results"]["zero_shot/all"] = 0.3
    table = papers_report.tables([found[0], other])
    assert "| dense | 2 | 58.8 | 1.5 | 40.0 ± 10.0 % | 25.0 ± 0.0 % |" in table
    assert "--gin_file=gin/papers/icons/dense.gin" in table

    losses = json.loads(json.dumps(other)) | {"data": "masked", "results": {"masked/mim": 1.25}}
    table = papers_report.tables([losses, losses | {"seed": 2, "results": {"masked/mim": 1.5}}])
    assert "| M parameters | MIM, nats |" in table and "| 1.5 | 1.375 ± 0.125 |" in table

    page = tmp_path / "docs" / "results.md"
    (page.parent / "images").mkdir(parents=True)
    page.write_text("# Before\n" + "\nold\n".join(papers_report.MARKS) + "\nafter\n")
    papers_report.write(found, page)
    written = page.read_text()
    assert "old" not in written and written.startswith("# Before\n") and written.endswith("after\n")
    assert "images/papers_icons.svg" in written
    assert "contrastive loss" in (page.parent / "images/papers_icons.svg").read_text()
    papers_report.write(found, page)
    assert page.read_text() == written
    page.write_text("no marks")
    with pytest.raises(ValueError, match="`docs` must have each of the lines"):
        papers_report.write(found, page)


def test_a_run_that_fails_says_why(tmp_path, monkeypatch):
    (run,) = papers.runs_of(["icons/dense"], [0], [None])
    (tmp_path / "icons").mkdir()
    (tmp_path / f"{run.name}.log").write_text("error: no such thing")
    monkeypatch.setattr(papers.jobs, "start", lambda _, lines, workdir: Job(workdir, 8, code=1))
    with pytest.raises(RuntimeError, match="icons/dense_seed_0 failed: error: no such thing"):
        papers.measure([run], tmp_path)
