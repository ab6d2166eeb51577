"""Finds gin files, those that are named and those that they include, from any current folder."""

import io
import os
import pathlib
import re

import tensorflow as tf

import gin

# Where the package is installed its gin files are in it, otherwise in the checkout's root.
_PACKAGE = pathlib.Path(__file__).resolve().parent
ROOT = _PACKAGE if (_PACKAGE / "gin").is_dir() else _PACKAGE.parent
# Before the path of a file that has been found: only the reader of this module opens it.
_FOUND = "found:"
_INCLUDE = re.compile(r"""^(\s*include\s+)(["'])(.+?)\2""", re.MULTILINE)


def find(name: str | os.PathLike) -> str:
    """Returns the path of a gin file, to be parsed by gin.

    It is looked for in the current folder, and then among those of the package, with or without the
    folder `gin/`. The files that it includes are looked for in its own folder, among those of the
    package, and then in the current folder.

    Args:
      name: path, on this machine or in a bucket, such as `runs/quickstart.gin`.

    Raises:
      ValueError: if there is no such file.
    """
    if (path := _first(name, ["", ROOT, ROOT / "gin"])) is None:
        own = sorted(path.relative_to(ROOT / "gin") for path in ROOT.glob("gin/**/*.gin"))
        raise ValueError(
            "`gin_file` must be an existing file, or one of the package: "
            f"{', '.join(map(str, own))}. Received: gin_file={os.fspath(name)!r}"
        )
    return _FOUND + path


def with_found_includes(text: str, near: str | os.PathLike = "") -> str:
    """Returns lines of gin, whose includes name the files that were found.

    Args:
      text: lines of gin.
      near: folder of the file that holds them.

    Raises:
      ValueError: if there is no such file.
    """

    def found(match):
        start, _, name = match.groups()
        if (path := _first(name, [near, ROOT, ROOT / "gin", ""])) is None:
            raise ValueError(
                "`include` must name a file in the folder of the including file, of the package or "
                f"in the current folder. Received: include {name!r}"
            )
        return f"{start}{_FOUND + path!r}"

    return _INCLUDE.sub(found, text)


def as_written(message: str) -> str:
    """Returns an error of gin that names the files without the mark of those that were found."""
    return message.replace(_FOUND, "")


def _first(name, folders):
    """Returns the first path that is a file, or None."""
    name = os.path.expanduser(os.fspath(name))
    if "://" in name:  # In a bucket; joined to a folder it would be another name.
        folders = [""]
    paths = (os.path.join(folder, name) for folder in folders)
    return next((p for p in paths if tf.io.gfile.exists(p) and not tf.io.gfile.isdir(p)), None)


def _open(name):
    """Opens a file that was found, with the files that it includes found, too."""
    path = name.removeprefix(_FOUND)
    with tf.io.gfile.GFile(path) as file:
        opened = io.StringIO(with_found_includes(file.read(), os.path.dirname(path)))
    opened.name = path  # Named by gin's errors.
    return opened


# The public function appends: behind a reader that logs an error for each name it does not know.
gin.config._FILE_READERS.insert(0, (_open, lambda name: name.startswith(_FOUND)))
