"""The wheel, in an environment that has the dependencies but not the checkout.

It is made of a source archive, that of copies of the files, and installed into a new environment,
which sees the packages of this one except limoe_tf. So this shows that both are whole and the
commands run, without the network; it does not show that pip finds all the dependencies.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

from tests.shared import record_files
from tests.shared.documents import ROOT
from tests.shared.small_runs import SMALL

SOURCES = ("limoe_tf", "tpu_jobs", "gin", "setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in")
TEXTS = ("README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
OFFLINE = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]


def run(*command, cwd):
    """Runs a command that must end well, without what would lead it to the checkout.

    Returns:
      What it printed, and what it logged from warnings upwards.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "1"
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Returns the paths of a source archive and a wheel."""
    folder = tmp_path_factory.mktemp("built")
    leave_out = shutil.ignore_patterns("__pycache__")
    for name in SOURCES[:3]:
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    for name in (*SOURCES[3:], *TEXTS):
        shutil.copy(ROOT / name, folder / name)
    run(sys.executable, "-c", BUILD, folder / "dist", cwd=folder)
    (archive,) = folder.glob("dist/*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", *OFFLINE]
    run(*pip, "--wheel-dir", folder / "dist", archive, cwd=folder)
    (wheel,) = folder.glob("dist/*.whl")
    return archive, wheel


def wanted(*patterns):
    paths = (path for pattern in patterns for path in ROOT.glob(pattern))
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_holds_each_module_and_gin_file_and_no_package_gin(built):
    files = set(zipfile.ZipFile(built[1]).namelist())
    modules = wanted("limoe_tf/**/*.py", "tpu_jobs/*.py")
    gin_files = {f"tpu_jobs/{path}" for path in wanted("gin/**/*.gin")}
    assert len(modules) > 80 and len(gin_files) > 8
    assert {name for name in files if ".dist-info/" not in name} == modules | gin_files


def test_the_source_archive_holds_what_the_wheel_is_made_of(built):
    with tarfile.open(built[0]) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    needed = wanted("limoe_tf/**/*.py", "tpu_jobs/*.py", "gin/**/*.gin", *SOURCES[3:], *TEXTS)
    assert needed - files == set()


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    """Returns the folder of the commands of a new environment with the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin/python"
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE]
    run(*pip, built[1], cwd=folder)
    # What lies in a folder on the path is found, but its own .pth files are not read: by one of
    # those an editable installation names the checkout.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_installed_command_lists_the_jobs(environment, tmp_path):
    printed, _ = run(environment / "limoe", "--help", cwd=tmp_path)
    assert "\n  train " in printed


def test_the_main_job_runs_from_the_wheel_in_an_empty_folder(environment, tmp_path):
    records = record_files.write_pairs(tmp_path / "pairs", 40)
    empty = tmp_path / "empty"
    empty.mkdir()
    lines = [
        *SMALL,
        "STEPS = 2",
        f"TRAIN_FILES = '{records}'",
        f"TEST_FILES = '{records}'",
        "limoe.Limoe.from_size.depth = 1",
        'limoe.Limoe.from_size.plan = ("sparse",)',
        "limoe.Limoe.from_size.image_size = 32",
        "limoe.Limoe.from_size.vocabulary_size = 40",
    ]
    flags = ["--gin_file=runs/tfrecord.gin", "--workdir=run", *(f"--gin_param={x}" for x in lines)]
    code = (
        "from importlib.util import find_spec as find\n"
        "for name in ('limoe_tf', 'tpu_jobs', 'gin'): print(find(name).origin)"
    )
    places, _ = run(environment / "python", "-c", code, cwd=empty)
    here = str(environment.parent)
    assert [place.startswith(here) for place in places.split()] == [True, True, False]
    printed, logged = run(environment / "limoe", "train", *flags, cwd=empty)
    assert "starting at step 0" in printed
    assert "PredictCost" not in logged  # Half a page on each softmax of unknown shape.
    results = json.loads((empty / "run/results.json").read_text("utf-8"))
    assert results["step"] == 2
    assert "recall" in json.dumps(results["retrieval"])
