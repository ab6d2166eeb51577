"""Reads what the CPU trainer did; keeps libtpu from looking for a metadata server."""

import functools
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tpu_jobs  # noqa: F401, I001 (first: it keeps libtpu from looking for a metadata server)
import numpy as np
import pytest

REFERENCE = pathlib.Path(os.environ.get("LIMOE_REFERENCE", ROOT / "build/reference"))


@functools.cache
def _read(case):
    found = {}
    with np.load(REFERENCE / f"{case}.npz") as file:
        for key in file.files:
            kind, name = key.split(":", 1)
            found.setdefault(kind, {})[name] = file[key]
    return found


@pytest.fixture
def reference():
    """A function from a case to dicts `initial`, `final`, `gradient` and `logs`."""
    return _read
