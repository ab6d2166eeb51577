"""What evaluations record of code, packages, data and settings."""

import json
import subprocess

import numpy as np
import pytest

from limoe_tf.data.sources import TfrecordSource
from limoe_tf.evaluate import provenance, tasks
from tests.shared import record_files


@pytest.fixture
def repository(tmp_path):
    """Returns a folder under git with a committed file, and a function that calls git there."""

    def git(*arguments):
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.com"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "code.py").write_text("x = 1\n")
    git("add", "code.py")
    git("commit", "--quiet", "--message", "Code")
    return tmp_path, git


def test_the_commit_of_a_file_says_whether_files_have_changed_since(repository):
    folder, git = repository
    commit = git("rev-parse", "HEAD")
    assert provenance.git_commit(folder / "code.py") == commit
    (folder / "code.py").write_text("x = 2\n")
    assert provenance.git_commit(folder / "code.py") == f"{commit}-dirty"


def test_a_file_that_no_repository_holds_has_no_commit(repository, tmp_path_factory):
    folder, _ = repository
    (folder / "installed.py").write_text("x = 1\n")
    assert provenance.git_commit(folder / "installed.py") is None
    assert provenance.git_commit(tmp_path_factory.mktemp("bare") / "code.py") is None


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("numpy", "no-such-package-at-all"))
    assert provenance.of_code()["packages"] == {"numpy": np.__version__}


def test_a_task_is_told_by_its_settings_and_its_source(tmp_path):
    path = record_files.write_pairs(tmp_path / "pairs", 2)
    task = tasks.ZeroShot(
        TfrecordSource(path, labels="label"), class_names=("a", "b"), groups={"all": range(2)}
    )
    found = provenance.of_task(task)
    assert found == {
        "task": "ZeroShot",
        "source": {"name": path, "folder": str(tmp_path), "num_files": 1},
        "class_names": ["a", "b"],
        "templates": ["{}"],
        "groups": {"all": [0, 1]},
        "batch_size": 250,
        "resize": "resize",
        "read": {},
    }
    json.dumps(found)


def test_tasks_of_other_kinds_are_told_too():
    def mine(model, vocabulary):
        return {}

    assert provenance.of_task(mine) == {"task": "mine"}

    class Mine:
        def __init__(self):
            self.function = max

    assert provenance.of_task(Mine()) == {"task": "Mine", "function": "<built-in function max>"}
