"""Reads gin files and makes the Experiment that they describe; every line must have a use."""

import re

import gin
from limoe_tf import checks
from tpu_jobs.experiment import Experiment


def parse(gin_files, bindings):
    """Reads gin files and single bindings; forgets those read before.

    Raises:
      ValueError: if a file is missing, or a line is wrong or needs a value that is not given.
    """
    for path in gin_files:
        checks.existing_file("gin_file", path)
    gin.clear_config()
    try:
        gin.parse_config_files_and_bindings(gin_files, bindings)
    except (ImportError, AttributeError, SyntaxError, LookupError, OSError, ValueError) as error:
        # Of a macro without a value gin says so and then prints all that it has read.
        message = str(error).split(" in config string")[0]
        message = re.sub(r"/(gin\.)?macro(\.value)?\b", "", message)
        raise ValueError(f"A gin file or binding is wrong. {message}") from error


def build():
    """Returns the Experiment that the parsed gin files describe, in the scope of a strategy.

    Raises:
      ValueError: if a line of them has no use, or what it says cannot be built.
    """
    try:
        gin.get_bindings(Experiment, resolve_references=False)
    except ValueError as error:
        raise ValueError("The gin files must describe a tpu_jobs.experiment.Experiment.") from error
    experiment = gin.get_configurable(Experiment)()
    # gin binds what concerns the batches when they are made; made now, a wrong line is found now.
    experiment.open_batches(lambda captions: (captions, captions))
    check_used()
    return experiment


def check_used():
    """Raises a ValueError if a line of the parsed gin files has had no use."""
    if unused := _unused_bindings():
        raise ValueError(f"Every line of a gin file must have a use. Received: {', '.join(unused)}")


def _unused_bindings():
    """Returns the names of the bindings from which no call has taken a value."""
    # gin offers these tables only as texts, which shorten names and leave values out.
    bound = {(*key, name) for key, names in gin.config._CONFIG.items() for name in names}
    used = set()
    for (scope, selector), names in gin.config._OPERATIVE_CONFIG.items():
        scopes = scope.split("/") if scope else []
        enclosing = ["/".join(scopes[:length]) for length in range(len(scopes), -1, -1)]
        for name in names:
            # Of several bindings the one with the longest scope counts.
            places = ((outer, selector, name) for outer in enclosing)
            used.add(next((place for place in places if place in bound), None))
    return sorted(_as_written(*place) for place in bound - used)


def _as_written(scope, selector, name):
    if selector == "gin.macro":
        return scope
    return f"{scope}/{selector}.{name}" if scope else f"{selector}.{name}"
