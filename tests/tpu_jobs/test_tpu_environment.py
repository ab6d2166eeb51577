"""libtpu is told that there is no TPU where it is installed and there is none, not elsewhere."""

import os

import pytest

from tpu_jobs import tpu_environment


@pytest.mark.parametrize("has_libtpu, has_tpu, told", [(1, 0, 1), (1, 1, 0), (0, 0, 0)])
def test_only_libtpu_on_a_machine_without_a_tpu_is_kept_from_looking(
    has_libtpu, has_tpu, told, monkeypatch
):
    monkeypatch.setattr(os, "environ", {"TPU_WORKER_ID": "3"})
    monkeypatch.setattr(tpu_environment, "_is_installed", lambda _: bool(has_libtpu))
    monkeypatch.setattr(tpu_environment, "has_tpu", lambda: bool(has_tpu))
    tpu_environment.prepare()
    assert ("TPU_SKIP_MDS_QUERY" in os.environ) == bool(told)
    assert os.environ["TPU_WORKER_ID"] == "3"  # What the user has set stays.


def test_missing_packages_of_the_compiler_are_named(monkeypatch):
    monkeypatch.setattr(tpu_environment, "_is_installed", lambda name: name != "libtpu")
    with pytest.raises(ValueError, match="make venv-tpu.*a Python without libtpu$"):
        tpu_environment.check_compiler()
