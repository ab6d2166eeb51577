"""Reads what the CPU trainer did; says which tests of the TPU program share what is compiled."""

import functools
import os
import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = pathlib.Path(os.environ.get("LIMOE_REFERENCE", ROOT / "build/reference"))


def pytest_collection_modifyitems(items):
    """Keeps the tests of a file together, but those that start a process each."""
    for item in items:
        if item.path.name != "test_compile_check.py":
            item.add_marker(pytest.mark.xdist_group(item.path.name))


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
