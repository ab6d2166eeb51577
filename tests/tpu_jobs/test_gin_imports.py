import pytest

import gin
from tpu_jobs import gin_files, gin_imports

HEAD = "from __gin__ import dynamic_registration\ninclude 'runs/quickstart.gin'\n"


@pytest.mark.parametrize(
    "line, missing",
    [
        ("few_shot.FewShot.shots = (5,)", "from limoe_tf.evaluate import few_shot"),
        ("experiment.Experiment.steps = 2", "from tpu_jobs import experiment"),
        ("A = @keras.optimizers.SGD()", "import keras"),
    ],
)
def test_a_file_that_lacks_an_import_is_told_the_line(line, missing, tmp_path):
    path = tmp_path / "a.gin"
    path.write_text(HEAD + line + "\n")
    with pytest.raises(ValueError) as error:
        gin_files.parse([path], [])
    assert str(error.value).endswith(f"\nadd the line: {missing}")
    path.write_text(HEAD + missing + "\n" + line + "\n")
    gin_files.parse([path], [])
    gin.clear_config()


def test_a_binding_of_what_no_file_names_is_told_the_line():
    message = "No configurable matching reference '@to/evaluate/few_shot.FewShot'."
    assert gin_imports.advice(message).endswith(
        "below the line: from limoe_tf.evaluate import few_shot"
    )
    assert "two_tower" in gin_imports.advice(
        "No configurable matching 'two_tower.TwoTower.from_size'"
    )


@pytest.mark.parametrize(
    "message",
    [
        "No configurable matching 'limoe.Limo.from_size'.",  # A slip of the pen, no lack.
        "No configurable matching 'nowhere_at_all.Name'.",
        "'nowhere_at_all' was not provided by an import statement.",
        "Unable to parse value.",
    ],
)
def test_where_no_import_helps_there_is_no_advice(message):
    assert gin_imports.advice(message) == ""
