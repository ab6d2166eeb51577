"""Says which import a line of gin lacks."""

import importlib.util
import pathlib
import re

_PACKAGES = ("limoe_tf", "tpu_jobs")
# What gin says of a name in a file, and in a binding, which knows only what the files name.
_IN_FILE = r"'(?P<module>\w+)' was not provided by an import statement"
_IN_BINDING = r"No configurable matching (reference )?'@?(\w+/)*(?P<module>\w+)\.(?P<name>\w+)"


def advice(message: str) -> str:
    """Returns a line on the import that is missing, or "" if none is.

    Args:
      message: an error of gin.
    """
    if match := re.search(_IN_FILE, message):
        lines = _imports(match["module"])
        return f"\nadd the line: {lines}" if lines else ""
    if match := re.search(_IN_BINDING, message):
        lines = _imports(match["module"], holding=match["name"])
        rule = "no gin file names it yet: write this line into one, below the line"
        return f"\n{rule}: {lines}" if lines else ""
    return ""


def _imports(module, holding=None):
    """Returns the lines that import a module of this name, of this package or another."""
    lines = []
    for package in _PACKAGES:
        root = pathlib.Path(importlib.util.find_spec(package).origin).parent
        for path in sorted(root.glob(f"**/{module}.py")):
            folder = ".".join(path.parent.relative_to(root.parent).parts)
            if holding is None or _defines(path, holding):
                lines.append(f"from {folder} import {module}")
    if not lines and importlib.util.find_spec(module):
        lines.append(f"import {module}")
    return " or ".join(lines)


def _defines(path, name):
    return re.search(rf"^(class|def) {name}\b", path.read_text("utf-8"), re.MULTILINE)
