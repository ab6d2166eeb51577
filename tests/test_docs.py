"""The README's code runs, and the commands and files it names are there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_python_block_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_the_readme_shows_python():
    assert BLOCKS


def test_every_path_it_names_is_there():
    named = re.findall(r"`((?:limoe_tf|tpu_jobs|gin|tests|benchmarks)/[\w/.]*)`", README)
    assert named
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_every_make_target_it_names_is_there():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert named and named <= targets


def test_every_job_it_names_is_there():
    named = set(re.findall(r"python -m tpu_jobs\.(\w+)", README))
    assert named and all((ROOT / "tpu_jobs" / f"{name}.py").exists() for name in named)
