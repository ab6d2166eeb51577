import csv
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import gin
from limoe_tf.analyze import findings, page, pictures, tables
from limoe_tf.analyze.overview import overview
from tests.shared import tiny
from tests.shared.small_runs import ROOT
from tpu_jobs import analyze, evaluation


@pytest.fixture(scope="module")
def run(shapes_run):
    """Looks inside a small run; returns its folder."""
    folder, _ = shapes_run
    command = [sys.executable, "-m", "tpu_jobs.analyze", f"--workdir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    return folder


@pytest.fixture
def experiment(run):
    yield evaluation.of_run(str(run))
    gin.clear_config()


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_token_of_the_test_source_is_in_the_tables(run):
    inside = run / "inside"
    layers = rows(inside / "layers.csv")
    assert [(row["layer"], row["modality"]) for row in layers] == [
        ("block_01", "image"),
        ("block_01", "text"),
    ]
    # 30 images of 4 x 4 patches, with 16 word pieces each; K = 1.
    assert [int(row["tokens"]) for row in layers] == [480, 480]
    for name in ("experts.csv", "tokens.csv"):
        found = rows(inside / name)
        for row in layers:
            same = [one for one in found if one["modality"] == row["modality"]]
            for column in ("choices", "dropped"):
                assert sum(int(one[column]) for one in same) == int(row[column])
    # The quickstart's min_experts of images.
    assert float(layers[0]["threshold"]) == pytest.approx(np.log(4))
    places = {row["token"] for row in rows(inside / "tokens.csv") if row["modality"] == "image"}
    assert places == {f"row {row}, column {column}" for row in range(4) for column in range(4)}


def test_the_pictures_of_the_page_are_files_too(run):
    names = {path.name for path in (run / "inside" / "images").iterdir()}
    assert names >= {
        *("entropies.png", "ranks.png", "dropped.png", "success_rate_over_steps.png"),
        *("marginal_entropy_over_steps.png", "block_01_shares.png", "block_01_overview.png"),
    }
    for name in names:
        data = (run / "inside" / "images" / name).read_bytes()
        assert tf.io.decode_png(data).shape[0] > 8, name
    text = (run / "inside" / "index.html").read_text()
    assert text.count("<img") == len(names)


def assert_stands_alone(text):
    """Nothing is fetched, every picture is described, and every choice has something to show."""
    # The letters of a picture may spell anything.
    written = re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    assert "http" not in written and "url(" not in written and "<link" not in written
    assert set(re.findall(r'src="([^",]*),', text)) <= {
        "data:image/png;base64",
        "data:image/jpeg;base64",
    }
    images = re.findall(r"<img[^>]*>", text)
    assert images and all(re.search(r'alt="[^"]{10,}"', image) for image in images)
    figures = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    assert len(figures) == len(images)
    assert all(re.search(r"<figcaption>.{10,}</figcaption>", figure) for figure in figures)
    ids = re.findall(r'id="([^"]*)"', text)
    shown = re.findall(r'<input type="radio" name="[^"]*" value="([^"]*)"', text)
    assert sorted(ids) == sorted(shown) and len(set(ids)) == len(ids)


def test_the_page_stands_alone(run):
    text = (run / "inside" / "index.html").read_text()
    assert_stands_alone(text)
    assert len(text) < 5e6
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert "30 pairs of captioned_shapes/test" in text


def test_fewer_images_and_another_folder_can_be_asked_for(run, experiment, tmp_path, capsys):
    options = {"num_images": 10, "output": str(tmp_path), "source": "retrieval"}
    path = analyze.analyze(experiment, str(run), **options)
    # Two batches of 8.
    assert [row["tokens"] for row in rows(tmp_path / "layers.csv")] == ["256", "256"]
    assert path == str(tmp_path / "index.html") and path in capsys.readouterr().out


def test_a_run_without_logs_has_no_pictures_of_them():
    records = [{"step": 1, "block_01/success_rate_text": None}, {"step": 2}]
    found, _ = findings.find(tiny.limoe(), [tiny.tensors()])
    assert pictures.over_steps(records, found) == []
    records.append({"step": 3, "block_01/success_rate_text": 0.5})
    (one,) = pictures.over_steps(records, found)
    assert "text: from 0.50 to 0.50" in one.alternative


def test_what_is_not_there_is_an_error(run, experiment, tmp_path):
    with pytest.raises(ValueError, match="must be one of 'retrieval', .* source='train'"):
        analyze.analyze(experiment, str(run), source="train")
    (tmp_path / "vocabulary.model").write_bytes((run / "vocabulary.model").read_bytes())
    with pytest.raises(ValueError, match="`workdir` must hold a checkpoint"):
        analyze.analyze(experiment, str(tmp_path))
    experiment.tasks = {"function": lambda model, vocabulary: {}}
    with pytest.raises(ValueError, match="a task whose source has captions"):
        analyze.analyze(experiment, str(run))


def report(model):
    found, _ = findings.find(model, [tiny.tensors(6)])
    names = tables.names_of(["<unk>", "</s>", "▁", "▁<b>", "er", *"▁abcdefghijklm"])
    return page.page(
        found,
        facts={"Data": "a <i> & b"},
        names=names,
        comparing=pictures.of_layers(found),
        overviews={layer: overview(layer, one, names) for layer, one in found.items()},
        of_layer={layer: pictures.of_layer(layer, one) for layer, one in found.items()},
        of_experts=pictures.of_experts(found),
    )


def test_pools_of_each_modality_have_pages_too():
    text = report(tiny.limoe(routing="experts_per_modality", plan=("sparse", "sparse")))
    assert_stands_alone(text)
    assert "block_00_text_expert_1" in text and "block_00_text_expert_2" not in text


def test_what_data_say_is_no_markup():
    text = report(tiny.limoe())
    assert "a &lt;i&gt; &amp; b" in text and "<i>" not in text
    assert "<b>" not in text and "&lt;b&gt;" in text


def test_pieces_are_named_for_readers():
    names = tables.names_of(["<unk>", "</s>", "▁", "▁red", "er"])
    assert names == ["<unk>", "(end)", "(space)", "red", "…er", "(padding)"]


def test_of_many_experts_fewer_patches_are_shown(monkeypatch):
    found, _ = findings.find(tiny.limoe(), [tiny.tensors(30)])
    size = sum(len(one.data) for one in pictures.of_experts(found)["block_01"] if one)
    monkeypatch.setattr(pictures, "_MAX_BYTES", size - 1)
    fewer = sum(len(one.data) for one in pictures.of_experts(found)["block_01"] if one)
    assert 0 < fewer < size


def test_progress_has_a_rate_and_the_time_left(monkeypatch, capsys):
    times = iter([0.0, 2.0, 6.0, 8.0])
    monkeypatch.setattr(analyze.time, "time", lambda: next(times))
    batches = [{"image": np.zeros([20, 1])}] * 3
    assert len(list(analyze.with_progress(batches, 100))) == 3
    # 40 images in 6 seconds; 60 to go.
    assert capsys.readouterr().out == "40 of at most 100 images, 6.7 a second, 0:09 left\n"
