"""The job that asks fine-tuned models: what each takes, table, plot, and what it refuses."""

import re
import types

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.export import saved_model
from tests.shared import exported, tasks
from tpu_jobs import ask

JOB = """
import runpy
runpy.run_module("tpu_jobs.ask", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SavedModels for questions and for statements, two photos, and a file that is none."""
    folder = tmp_path_factory.mktemp("ask")
    vocabulary = exported.vocabulary(folder)
    for task in ("questions", "statements"):
        model = tasks.model(task, vocabulary_size=exported.PIECES, freeze_experts=False)
        saved_model.export(exported.draw_weights(model), vocabulary, folder / task)
    for seed in range(2):
        exported.write_png(folder / f"{seed}.png", seed)
    (folder / "text.png").write_text("no picture")
    return folder


def stub(name, inputs, outputs):
    """What `tf.saved_model.load` returns, as far as it is read; its outputs are those given."""

    @tf.function(autograph=False)
    def function(**given):
        return {name: tf.constant(value) for name, value in outputs.items()}

    specs = {one: tf.TensorSpec([None], tf.string, name=one) for one in inputs}
    return types.SimpleNamespace(signatures={name: function.get_concrete_function(**specs)})


def test_the_job_needs_nothing_of_this_package(folder):
    photo, question, plot = folder / "0.png", "a red circle and $ what", folder / "plot.png"
    flags = [f"--model={folder / 'questions'}", "--top=3", f"--plot={plot}"]
    done = exported.run_alone(JOB, photo, question, *flags)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["answer", "probability"]
    assert len(lines) == 4 and len(set(map(len, lines))) == 1
    signature = tf.saved_model.load(str(folder / "questions")).signatures["answer"]
    found = signature(
        image=tf.io.read_file(str(photo))[tf.newaxis], question=tf.constant([question])
    )
    names = [name.decode() for name in found["answers"].numpy()[0]]
    assert [line.split()[0] for line in lines[1:]] == names[:3]
    shares = [float(line.split()[1]) for line in lines[1:]]
    np.testing.assert_allclose(shares, 100 * found["probabilities"][0, :3], atol=0.051)
    drawn = tf.io.decode_png(plot.read_bytes()).numpy()
    assert drawn.shape[0] > 300 and drawn.shape[1] > 600
    assert len(np.unique(drawn.reshape(-1, drawn.shape[-1]), axis=0)) > 100


@pytest.mark.parametrize(
    "values, message",
    [
        (["0.png"], "The model takes 2 values: PHOTO QUESTION. Received: 1"),
        (["missing.png", "a"], "missing.png: "),
        (["text.png", "a"], "text.png: Images must be complete JPEG"),
        (["0.png", "?"], "Texts must each hold words."),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, monkeypatch, values, message):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="^" + re.escape(message)) as error:
        ask.run("questions", values)
    assert "\n" not in str(error.value) and "at 0" not in str(error.value)


def test_of_two_photos_the_one_that_is_none_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    model = tf.saved_model.load("statements")
    given, found = ask.ask(model, ["0.png", "1.png", "a red circle"])
    assert given == {"image": "0.png", "other_image": "1.png", "statement": "a red circle"}
    assert set(found) == {"true", "false"} and sum(found.values()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"^text\.png: Images must be"):
        ask.ask(model, ["0.png", "text.png", "a red circle"])


def test_each_signature_takes_its_inputs_in_this_order(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shares = {"classes": ["a", "b", "c"], "probabilities": [[0.25, 0.125, 0.625]]}
    by_share = {"c": 0.625, "a": 0.25, "b": 0.125}
    match = {"probability": [0.75]}
    for name, inputs, values, outputs, expected in (
        ("match", ("image", "text"), ["0.png", "a"], match, {"they belong together": 0.75}),
        ("classify_image", ("image",), ["1.png"], shares, by_share),
        ("classify_pair", ("premise", "hypothesis"), ["first", "second"], shares, by_share),
    ):
        given, found = ask.ask(stub(name, inputs, outputs), values)
        assert given == dict(zip(inputs, values))
        assert found == expected and list(found) == list(expected)


def test_another_model_is_refused_with_what_it_has(tmp_path):
    other = stub("classify", ("images",), {"probabilities": [[1.0]]})
    with pytest.raises(ValueError, match="signatures answer, match, .* Received: classify$"):
        ask.ask(other, ["a.png"])
    with pytest.raises(ValueError, match="--model must be given"):
        ask.run(None, ["a.png"])
    with pytest.raises(OSError, match="SavedModel file does not exist"):
        ask.run(str(tmp_path), ["a.png"])


def test_the_table_shows_the_most_probable_answers():
    found = {"two dogs": 0.7, "cat": 0.256, "no": 0.044}
    assert ask.table(found, top=2).splitlines() == [
        "answer    probability",
        "two dogs       70.0 %",
        "cat            25.6 %",
    ]


def test_sentences_alone_are_drawn_too(tmp_path):
    given = {"premise": "a red circle " * 30, "hypothesis": "it is red"}
    ask.draw(str(tmp_path / "a.png"), given, {"entailment": 0.9, "neutral": 0.1}, top=5)
    assert tf.io.decode_png((tmp_path / "a.png").read_bytes()).shape[0] > 300
