"""The settings of a run that is started again: what is told, what is refused, what is noted."""

import types

import pytest

from limoe_tf.data.mixture import Mixture
from limoe_tf.data.records import RecordFile
from tpu_jobs import settings

TEXT = """
from __gin__ import dynamic_registration
from tpu_jobs import experiment

# Macros:
# ====
BATCH_SIZE = 8

# Parameters for experiment.Experiment:
# ====
experiment.Experiment.batch_size = %BATCH_SIZE
experiment.Experiment.seed = 0
experiment.Experiment.tasks = \\
    {'retrieval': @tasks.Retrieval(),
     'success_rate': @tasks.SuccessRates()}
optimizer.AdamW.learning_rate = 0.001
train/sources.TfdsSource.split = 'train[:10%]'
"""


def started(before, now, step, *, bound=(), config=""):
    """Goes on with other settings from a checkpoint that knows its own; returns the Settings."""
    first = settings.Settings(before, bound=())
    first.begin()
    second = settings.Settings(now, bound=bound)
    second.variable.assign(first.variable)
    second.go_on(step, config=config)
    return second


def test_a_text_of_gin_is_read_as_bindings_with_macros_filled_in():
    assert settings.parse(TEXT) == {
        "experiment.Experiment.batch_size": "8",
        "experiment.Experiment.seed": "0",
        "experiment.Experiment.tasks": (
            "{'retrieval': @tasks.Retrieval(), 'success_rate': @tasks.SuccessRates()}"
        ),
        "optimizer.AdamW.learning_rate": "0.001",
        "train/sources.TfdsSource.split": "'train[:10%]'",
    }
    assert settings.parse("") == {}


def test_the_same_settings_say_nothing(capsys):
    same = settings.parse(TEXT)
    assert started(same, same, 4).notes() == ""
    assert capsys.readouterr().out == ""


def test_a_change_is_a_line_and_a_note_that_the_next_start_keeps(capsys):
    first, second = {"optimizer.AdamW.beta_2": "0.9"}, {"optimizer.AdamW.beta_2": "0.99"}
    one = started(first, second, 4)
    assert capsys.readouterr().out == (
        "Other settings from step 4 on: optimizer.AdamW.beta_2 = 0.99 (was 0.9)\n"
    )
    assert one.notes() == "# Until step 4: optimizer.AdamW.beta_2 = 0.9\n"
    # The checkpoint of step 6 knows both; that of step 4, to which a run may go back, only one.
    again = settings.Settings(second, bound=())
    again.variable.assign(one.variable)
    again.go_on(6)
    assert again.notes() == one.notes() and capsys.readouterr().out == ""
    back = settings.Settings(first, bound=())
    back.variable.assign(again.variable)
    back.go_on(8)
    assert back.notes().splitlines()[1] == "# Until step 8: optimizer.AdamW.beta_2 = 0.99"


@pytest.mark.parametrize(
    "name",
    [
        *("experiment.Experiment.batch_size", "batches.training_batches.shuffle_window"),
        *("mixture.Mixture.weights", "experiment.Experiment.train_source", settings.DATA),
    ],
)
def test_what_changes_the_order_of_the_data_is_told_as_such(name, capsys):
    started({name: "8"}, {name: "16"}, 4)
    assert "So the order of the data is another one" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        *("experiment.Experiment.seed", "a.B.same_expert_init"),
        *("limoe.Limoe.logit_scale", "limoe.Limoe.logit_bias"),
    ],
)
@pytest.mark.parametrize("step", [0, 4])
def test_what_a_run_begins_with_cannot_change(name, step):
    with pytest.raises(ValueError, match=f"must stay as it was.*{name} = 1 \\(was 0\\)$"):
        started({name: "0"}, {name: "1"}, step)


def test_before_the_first_step_nothing_was_in_effect(capsys):
    assert started({"a.B.c": "1"}, {"a.B.c": "2"}, 0).notes() == ""
    assert capsys.readouterr().out == ""


def test_what_is_set_no_more_and_what_is_set_first_are_told_but_no_new_default(capsys):
    before = {"a.B.size": "1", "a.B.gone": "2"}
    now = {"a.B.size": "1", "a.B.bound": "3", "a.B.default": "4"}
    started(before, now, 4, bound=["a.B.bound"])
    line = capsys.readouterr().out
    assert "a.B.gone = not set (was 2)" in line and "a.B.bound = 3 (was not set)" in line
    assert "default" not in line


def test_of_another_optimizer_only_its_name_is_told(capsys):
    before = {"e.Experiment.optimizer": "@a.Adam()", "a.Adam.beta": "1"}
    now = {"e.Experiment.optimizer": "@a.AdamW()", "a.AdamW.beta": "2"}
    started(before, now, 4, bound=["a.AdamW.beta"])
    assert capsys.readouterr().out == (
        "Other settings from step 4 on: e.Experiment.optimizer = @a.AdamW() (was @a.Adam())\n"
    )


def test_where_a_checkpoint_does_not_know_its_settings_config_gin_says_them(capsys):
    now = settings.Settings(
        {**settings.parse(TEXT), "optimizer.AdamW.learning_rate": "1e-05"}, bound=()
    )
    now.go_on(4, config=TEXT)
    assert "learning_rate = 1e-05 (was 0.001)" in capsys.readouterr().out
    now.variable.assign("{}")  # A rollback to that checkpoint.
    now.go_on(4)
    assert now.notes() == "# Until step 4: optimizer.AdamW.learning_rate = 0.001\n"


def test_no_text_of_a_checkpoint_becomes_a_line_of_gin():
    known = started({"a.b": "1"}, {"a.b": "1"}, 4)
    known.before = [["4\nimport os", {"a.b": "1\nimport os", "a\rimport os": "2"}]]
    assert [line[:12] for line in known.notes().splitlines()] == [settings._NOTE] * 2


def test_weights_that_were_imported_have_drawn_nothing():
    now, before = {"experiment.Experiment.seed": "1"}, "experiment.Experiment.seed = 0\n"
    settings.Settings(now, bound=()).go_on(0, config=before)
    with pytest.raises(ValueError, match="must stay as it was"):
        settings.Settings(now, bound=()).go_on(4, config=before)


def source(*paths):
    files = [RecordFile(path, 0, -1) for path in paths]
    return types.SimpleNamespace(name="pairs", files=files, has_images=True, has_captions=True)


def test_files_are_known_by_their_names_wherever_they_lie():
    words = settings._fingerprint(source("/a/train-0", "/a/train-1"))
    assert words.startswith("2 files, ")
    assert settings._fingerprint(source("gs://b/train-0", "gs://b/train-1")) == words
    assert settings._fingerprint(source("/a/train-0")) != words
    parts = {"one": source("/a/train-0"), "two": source("/a/train-1")}
    mixture = Mixture(parts, weights={"one": 1, "two": 1})
    assert settings._fingerprint(mixture) == words
