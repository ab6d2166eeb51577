"""Gin files and those that they include are found from any folder."""

import pytest
import tensorflow as tf

import gin
from tests.shared.documents import ROOT
from tpu_jobs import gin_files

HEAD = "from __gin__ import dynamic_registration\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    gin.clear_config()


def steps():
    return gin.query_parameter("STEPS/macro.value")


@pytest.mark.parametrize(
    "name",
    [
        ROOT / "gin/runs/classic_losses.gin",
        "gin/runs/classic_losses.gin",
        "runs/classic_losses.gin",
    ],
)
def test_a_file_of_the_package_and_what_it_includes_are_found_from_elsewhere(name):
    gin_files.parse([name], [])
    assert steps() == 1900  # Of the quickstart, which it includes.


def test_a_file_here_comes_before_one_of_the_package(elsewhere):
    (elsewhere / "runs").mkdir()
    (elsewhere / "runs/quickstart.gin").write_text("STEPS = 3\n")
    gin_files.parse(["runs/quickstart.gin"], [])
    assert steps() == 3


def test_includes_are_found_beside_the_file_then_in_the_package_then_here(elsewhere):
    (elsewhere / "runs").mkdir()
    (elsewhere / "mine").mkdir()
    (elsewhere / "runs/quickstart.gin").write_text("STEPS = 3\n")
    (elsewhere / "here.gin").write_text("HERE = 1\n")
    (elsewhere / "mine/beside.gin").write_text("include 'deeper.gin'\nSTEPS = 5\n")
    (elsewhere / "mine/deeper.gin").write_text('include "here.gin"\nDEEPER = 2\n')
    text = 'include "runs/quickstart.gin"\ninclude "beside.gin"\n'
    (elsewhere / "mine/all.gin").write_text(HEAD + text)
    gin_files.parse(["mine/all.gin"], [])
    assert steps() == 5
    assert gin.query_parameter("HERE/macro.value") == 1
    assert gin.query_parameter("DEEPER/macro.value") == 2
    assert gin.query_parameter("BATCH_SIZE/macro.value") == 128  # Of the package's quickstart.


def test_a_binding_may_include_a_file():
    gin_files.parse(["runs/quickstart.gin"], ['include "runs/quickstart.gin"', "STEPS = 4"])
    assert steps() == 4


def test_files_in_a_bucket_are_read_and_include_each_other():
    for name, text in (("a", 'include "b.gin"\n'), ("b", "STEPS = 7\n")):
        with tf.io.gfile.GFile(f"ram://bucket/gin/{name}.gin", "w") as file:
            file.write(text)
    gin_files.parse(["ram://bucket/gin/a.gin"], [])
    assert steps() == 7


def test_a_file_that_is_nowhere_is_an_error_that_lists_those_of_the_package(elsewhere):
    with pytest.raises(ValueError, match=r"one of the package: .*runs/b16.gin.*gin_file='no.gin'"):
        gin_files.parse(["no.gin"], [])
    (elsewhere / "a.gin").write_text('include "no.gin"\n')
    with pytest.raises(ValueError, match="`include` must name a file .*include 'no.gin'"):
        gin_files.parse(["a.gin"], [])


@pytest.mark.parametrize(
    "line, place",
    [
        ("experiment.Experiment.no_such = 1", 'In file "b.gin", line 3'),
        ("STEPS = (", "include 'b.gin'"),  # Where it ends; gin names but the file that includes.
    ],
)
def test_an_error_names_the_file_and_line_that_were_written(line, place, elsewhere):
    (elsewhere / "a.gin").write_text(HEAD + 'include "b.gin"\n')
    (elsewhere / "b.gin").write_text(HEAD + "from tpu_jobs import experiment\n" + line + "\n")
    with pytest.raises(ValueError) as error:
        gin_files.parse(["a.gin"], [])
    assert place in str(error.value)
