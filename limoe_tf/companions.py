"""Files that a model's weights belong with, such as its vocabulary, known by their SHA-256.

With another vocabulary of the same size every token has another meaning, and nothing else shows it.
"""

import json
from typing import Any


def of(model: Any) -> dict[str, str]:
    """Returns a dict from the name of each file that the model belongs with to its SHA-256."""
    return dict(getattr(model, "companions", {}))


def check(model: Any, **files: Any) -> None:
    """Refuses files other than those with which the model's weights belong.

    Args:
      model: what has `companions`, a dict as of the function `of`, is compared; others are not.
      **files: by name, such as `vocabulary`; what has no `sha256`, such as a function, is not
        compared.

    Raises:
      ValueError: if a file of this name has another hash.
    """
    _joined(of(model), _hashes(files), lambda name: _place(files[name]))


def join(model: Any, **files: Any) -> None:
    """Refuses files as `check` does, and notes in the model that it belongs with these.

    What is noted goes into each checkpoint, `.keras` file and SavedModel of the model.
    """
    model.companions = _joined(of(model), _hashes(files), lambda name: _place(files[name]))


def join_stored(model: Any, text: str, *, place: str) -> None:
    """Notes in the model what is stored beside weights that are to be its own.

    Args:
      model: is given `companions`; if it has some already, those of a name must be the same.
      text: what `stored` has returned.
      place: where it was found, for errors.

    Raises:
      ValueError: if the model belongs with another file.
    """
    model.companions = _joined(of(model), json.loads(text), lambda name: f"the weights of {place}")


def stored(model: Any) -> str:
    """Returns what the model belongs with as text, to be stored beside its weights."""
    return json.dumps(of(model), sort_keys=True)


def _hashes(files):
    found = {name: getattr(file, "sha256", None) for name, file in files.items()}
    return {name: sha256 for name, sha256 in found.items() if sha256}


def _place(file):
    return repr(getattr(file, "path", file))


def _joined(known, found, place_of):
    for name in sorted(known.keys() & found):
        if known[name] != found[name]:
            raise ValueError(
                f"Weights must meet the {name} with which they were trained, and no other. "
                f"Received: {place_of(name)} with {name} SHA-256 {found[name]}, "
                f"where the model has {known[name]}"
            )
    return {**known, **found}
