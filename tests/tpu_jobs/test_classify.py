"""The job that classifies pictures: table, plot, bad files, and independence of the package."""

import re

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.export import saved_model
from tests.shared import exported, tiny
from tpu_jobs import classify

JOB = """
import runpy
runpy.run_module("tpu_jobs.classify", run_name="__main__", alter_sys=True)
"""
CLASSES = ("a red circle", "star", "green ring")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SavedModel, 66 valid pictures and some bad ones."""
    folder = tmp_path_factory.mktemp("classify")
    model = exported.draw_weights(tiny.limoe(depth=1, vocabulary_size=exported.PIECES))
    saved_model.export(model, exported.vocabulary(folder), folder / "model")
    for seed in range(66):
        exported.write_png(folder / f"{seed}.png", seed)
    data = tf.io.encode_jpeg(exported.picture(0)).numpy()
    (folder / "cut.jpg").write_bytes(data[:-20])
    (folder / "text.png").write_text("no picture")
    return folder


def test_the_job_needs_nothing_of_this_package_and_answers_despite_bad_files(folder):
    names = ["0.png", "cut.jpg", "1.png", "missing.png", "text.png"]
    flags = ["--classes", ", ".join(CLASSES), "--top=2", f"--plot={folder / 'plot.png'}"]
    paths = [folder / name for name in names]
    done = exported.run_alone(JOB, *paths, f"--model={folder / 'model'}", *flags)
    assert done.returncode == 1
    complaints = [line for line in done.stderr.splitlines() if str(folder) in line]
    assert [line.split(":")[0] for line in complaints] == [
        str(folder / name) for name in ("missing.png", "cut.jpg", "text.png")
    ]
    assert "error: 3 of 5 pictures have no answer." in done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["picture", "class", "probability"]
    valid = [str(folder / name) for name in ("0.png", "1.png")]
    assert [line.split()[0] for line in lines[1::2]] == valid
    assert len(lines) == 5 and len(set(map(len, lines))) == 1
    plot = tf.io.decode_png((folder / "plot.png").read_bytes())
    assert plot.shape[0] > 400 and plot.shape[1] > 800
    assert len(np.unique(plot.numpy().reshape(-1, plot.shape[-1]), axis=0)) > 100


def test_many_pictures_have_the_answers_of_each_alone(folder):
    model = tf.saved_model.load(str(folder / "model"))
    paths = [str(folder / f"{seed}.png") for seed in range(66)]
    bad = str(folder / "cut.jpg")
    found, faults = classify.classify(model, [*paths[:60], bad, *paths[60:]], CLASSES)
    assert sorted(found) == sorted(paths)
    formats = "JPEG, PNG, still GIF, still WebP or BMP"
    assert faults == {bad: f"Images must be complete {formats} files of 2 to 100000000 pixels."}
    for path in paths[::13]:
        files = tf.io.read_file(path)[tf.newaxis]
        alone = model.signatures["classify_bytes"](images=files, classes=tf.constant(CLASSES))
        np.testing.assert_allclose(found[path], alone["probabilities"][0], atol=1e-6)


def test_the_table_shows_the_most_probable_classes_first():
    found = {"a.png": np.array([0.2, 0.7, 0.1], "float32"), "b.png": np.array([1, 0, 0], "float32")}
    assert classify.table(found, CLASSES, top=2).splitlines() == [
        "picture  class         probability",
        "a.png    star               70.0 %",
        "         a red circle       20.0 %",
        "b.png    a red circle      100.0 %",
        "         star                0.0 %",
    ]


def test_class_names_may_hold_commas_singly_or_in_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("wren, a bird\n\nwren, an architect\r\n", "utf-8")
    names = classify.class_names("star, ring", ["a circle, red"], str(tmp_path / "names.txt"))
    expected = ["star", "ring", "a circle, red", "wren, a bird", "wren, an architect"]
    assert names == expected
    assert classify.class_names() == []
    assert classify.class_names("star, ,ring") == ["star", "", "ring"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": None}, "--model must be given."),
        ({"paths": []}, "Pictures must be named: IMAGE..."),
        ({"classes": []}, "Classes must be given"),
        (
            {"classes": ["star", "", "ring"]},
            "Class names must each hold words. Received others at 1",
        ),
    ],
)
def test_what_is_missing_is_named(folder, change, message):
    values = {"model": str(folder / "model"), "paths": ["0.png"], "classes": ["star"], **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        classify.run(values["model"], values["paths"], values["classes"])


def test_a_folder_that_is_no_such_model_is_an_error(folder, tmp_path):
    with pytest.raises(OSError, match="SavedModel file does not exist"):
        classify.run(str(folder), ["0.png"], ["star"])
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(ValueError, match="--model must be a folder that"):
        classify.run(str(tmp_path / "other"), ["0.png"], ["star"])
