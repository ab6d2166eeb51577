"""Converts published lists of class names and templates to the files that zero-shot tasks read.

    python -m tpu_jobs.convert_prompts --input=FILE --output_dir=DIR

FILE is a Python source or a notebook that assigns a list of strings to a name ending in `classes`,
and another to one ending in `templates`, as those published with CLIP do; it is never executed.
Writes `classes.txt` and `templates.txt`, one entry a line. If a class has several names, in a list
or separated by commas, the first one is used.
"""

import ast
import json
import os

import tensorflow as tf
from absl import app, flags

from limoe_tf import checks
from limoe_tf.evaluate.results import write_text
from tpu_jobs import errors, usage


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_string("input", None, "Python source or notebook with the lists")
    flags.DEFINE_string("output_dir", None, "folder for classes.txt and templates.txt")


def convert(path: str, folder: str) -> tuple[list[str], list[str]]:
    """Reads the lists and writes the two files.

    Args:
      path: a file that ends in .py or .ipynb.
      folder: output folder.

    Returns:
      list of class names, list of templates.

    Raises:
      ValueError: if a list is not found exactly once, or an entry is not a string of one line.
    """
    sources = _sources(checks.existing_file("input", path))
    classes = [_first_name(entry) for entry in _the_list(sources, "classes", path)]
    templates = _the_list(sources, "templates", path)
    for kind, lines in (("classes", classes), ("templates", templates)):
        for line in lines:
            if not isinstance(line, str) or not line.strip() or len(line.splitlines()) != 1:
                raise ValueError(f"The {kind} must be strings of one line. Received: {line!r}")
    if wrong := [template for template in templates if "{}" not in template]:
        raise ValueError(f'The templates must each hold "{{}}". Received: {wrong[0]!r}')
    write_text(os.path.join(folder, "classes.txt"), "\n".join(classes) + "\n")
    write_text(os.path.join(folder, "templates.txt"), "\n".join(templates) + "\n")
    return classes, templates


def _sources(path):
    """Returns the Python sources of a file: a notebook has one in each code cell."""
    with tf.io.gfile.GFile(path) as file:
        text = file.read()
    if not path.endswith(".ipynb"):
        return [text]
    try:
        cells = json.loads(text)["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"`input` must be a notebook. Received: {path!r} ({error})") from error


def _the_list(sources, ending, path):
    found = [value for source in sources for value in _assigned(source, ending)]
    if len(found) != 1:
        raise ValueError(
            f"`input` must assign one list to a name ending in {ending!r}. "
            f"Received: {path!r} with {len(found)}"
        )
    try:
        values = ast.literal_eval(found[0])
    except ValueError as error:
        raise ValueError(f"The {ending} must be a plain list of strings. {error}") from error
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"The {ending} must be a list with entries. Received: {values!r}")
    return list(values)


def _assigned(source, ending):
    """Yields the lists in the source that are assigned to a name of that ending, unevaluated."""
    # Shell commands and notebook magics are not Python.
    lines = ["" if line.lstrip().startswith(("!", "%")) else line for line in source.splitlines()]
    try:
        tree = ast.parse("\n".join(lines))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"`input` must be Python. Received: {error}") from error
    for node in tree.body:
        # Only lists: a notebook may well go on with `num_classes = len(imagenet_classes)`.
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Tuple)):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if any(name.endswith(ending) for name in names):
                yield node.value


def _first_name(entry):
    names = entry if isinstance(entry, (list, tuple)) else [entry]
    return names[0].split(",")[0].strip() if names and isinstance(names[0], str) else entry


@errors.in_one_line
def main():
    path, folder = (flags.FLAGS[name].value for name in ("input", "output_dir"))
    if not (path and folder):
        raise ValueError("--input and --output_dir must be given.")
    classes, templates = convert(os.path.expanduser(path), os.path.expanduser(folder))
    print(f"{len(classes)} classes and {len(templates)} templates: {folder}", flush=True)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
