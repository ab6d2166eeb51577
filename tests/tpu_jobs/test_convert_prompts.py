"""Lists of class names and templates as others publish them, made up here, become files."""

import json

import pytest

from limoe_tf.data.labels import read_names
from tpu_jobs import convert_prompts

SOURCE = """
raise SystemExit("the file was run")
toy_classes = ["tench, Tinca tinca", ["great white", "white shark"], "crane"]
num_classes = len(toy_classes)
toy_templates = [
    'a bad photo of a {}.',
    "one {}, drawn",
]
"""


def converted(tmp_path, text, name="lists.py"):
    path = tmp_path / name
    path.write_text(text, "utf-8")
    convert_prompts.convert(str(path), str(tmp_path / "out"))
    return [read_names(tmp_path / "out" / file) for file in ("classes.txt", "templates.txt")]


def test_lists_of_a_source_that_is_not_run_become_files(tmp_path):
    assert converted(tmp_path, SOURCE) == [
        ["tench", "great white", "crane"],
        ["a bad photo of a {}.", "one {}, drawn"],
    ]


def test_lists_of_a_notebook_stand_in_any_of_its_cells(tmp_path):
    before, after = SOURCE.split("num_classes")
    cells = [
        {"cell_type": "markdown", "source": ["toy_classes = ['no']"]},
        {"cell_type": "code", "source": ["! pip install words\n", "%load_ext words\n"]},
        {"cell_type": "code", "source": before.splitlines(keepends=True)},
        {"cell_type": "code", "source": f"num_classes{after}"},
    ]
    text = json.dumps({"cells": cells})
    assert converted(tmp_path, text, "lists.ipynb") == converted(tmp_path, SOURCE)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.py", "x_templates = ['{}']", "a name ending in 'classes'. Received: .* with 0"),
        ("a.py", "a_classes = ['a']\nb_classes = ['b']", "Received: .* with 2"),
        ("a.py", "a_classes = [name for name in 'ab']", "with 0"),
        ("a.py", "a_classes = [open('/etc/passwd')]", "must be a plain list of strings"),
        ("a.py", "a_classes = []", "must be a list with entries"),
        ("a.py", "a_classes = ['a', 3]\na_templates = ['{}']", "one line. Received: 3"),
        ("a.py", "a_classes = ['a', ' ,b']\na_templates = ['{}']", "one line. Received: ''"),
        ("a.py", "a_classes = ['a\\nb']\na_templates = ['{}']", "one line"),
        ("a.py", "a_classes = ['a']\na_templates = ['a photo']", "must each hold"),
        ("a.py", "a_classes = ['a'", "must be Python"),
        ("a.ipynb", "a_classes = ['a']", "must be a notebook"),
        ("a.ipynb", "[]", "must be a notebook"),
    ],
)
def test_files_without_such_lists_are_refused_and_nothing_is_written(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        converted(tmp_path, text, name)
    assert not (tmp_path / "out").exists()
