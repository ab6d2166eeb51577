"""What is needed to repeat an evaluation: the code and its packages, the data and the settings."""

import importlib.metadata
import os
import platform
import subprocess
from typing import Any

_PACKAGES = (
    "keras",
    "mesh-tensorflow",
    "numpy",
    "sentencepiece",
    "tensorflow",
    "tensorflow-datasets",
    "tensorflow-text",
    "tensorflow-tpu",
)


def of_code() -> dict[str, Any]:
    """Returns a dict of the `git_commit` and the versions of `python` and `packages`."""
    return {
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def git_commit(path: str = __file__) -> str | None:
    """Returns the commit of the repository that contains a file, or None.

    It is None without git, and if the file is not tracked, as in a repository in which this package
    is only installed. The suffix "-dirty" means that files differ from the commit.
    """
    git = ["git", "-C", os.path.dirname(os.path.abspath(path))]
    try:
        _output([*git, "ls-files", "--error-unmatch", os.path.basename(path)])
        commit = _output([*git, "rev-parse", "HEAD"])
        changed = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def of_task(task: Any) -> dict[str, Any]:
    """Returns a task's class and all its attributes as JSON-serializable values.

    A source becomes a dict of its `name`, the `folder` of its files, which for TFDS contains the
    version, and their number. Values of other types become their `repr`.
    """
    settings = {name: _plain(value) for name, value in getattr(task, "__dict__", {}).items()}
    return {"task": getattr(task, "__name__", type(task).__name__), **settings}


def _plain(value):
    if hasattr(value, "files"):
        folder = os.path.dirname(value.files[0].path)
        return {"name": value.name, "folder": folder, "num_files": len(value.files)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
