"""Checks the installation and prints, for each problem, the command that fixes it.

    python -m tpu_jobs.doctor [--vocabulary=FILE]

Exits with 1 if training would fail. Other than the standard library, packages are imported
only by the check that needs them, so that this also runs in a broken installation.
"""

import argparse
import configparser
import json
import os
import pathlib
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module, metadata, util
from typing import Any, NamedTuple

# In a checkout; where the package is installed its requirements are among its metadata.
_SETUP = pathlib.Path(__file__).resolve().parents[1] / "setup.cfg"
_INSTALL = (
    f"python -m pip install {'-e .' if _SETUP.exists() else '--force-reinstall THE_WHEEL.whl'}"
)
# Mesh TensorFlow imports only after limoe_tf.mesh.compat has restored two names.
_MODULES = [
    "numpy",
    "tensorflow",
    "keras",
    "tensorflow_text",
    "tensorflow_datasets",
    "sentencepiece",
    "limoe_tf",
    "limoe_tf.mesh.compat",
    "mesh_tensorflow",
]


class Finding(NamedTuple):
    """One line of the report; `verdict` is "ok", "note" or "wrong", `remedy` a command."""

    verdict: str
    text: str
    remedy: str = ""


def check_python(version: Sequence[int]) -> list[Finding]:
    """Checks whether a Python `version`, such as (3, 11, 7), is supported."""
    shown = ".".join(str(number) for number in version)
    if (3, 10) <= tuple(version[:2]) <= (3, 13):
        return [Finding("ok", f"Python {shown}")]
    remedy = "make clean venv PYTHON=python3.11"
    return [Finding("wrong", f"Python {shown}; 3.10 to 3.13 are needed", remedy)]


def check_owners(owners: Sequence[str]) -> list[Finding]:
    """Checks whether `owners`, the distributions with files in `tensorflow/`, are exactly one."""
    if len(owners) == 1:
        return [Finding("ok", f"the folder tensorflow/ belongs to {owners[0]} alone")]
    if not owners:
        return [Finding("wrong", "TensorFlow is not installed", _INSTALL)]
    kept = "tensorflow-tpu" if "tensorflow-tpu" in owners else "tensorflow"
    text = f"{' and '.join(owners)} have all written into tensorflow/"
    remedy = f"python -m pip uninstall -y {' '.join(owners)} && {_pip(kept + '>=2.20,<2.22')}"
    return [Finding("wrong", text, remedy)]


def check_versions(
    requirements: Iterable[str], installed: Callable[[str], str | None]
) -> list[Finding]:
    """Checks whether each requirement is installed in a supported version.

    Args:
      requirements: lines such as "keras>=3.11,<3.16".
      installed: function from a distribution's name to its version, or None if it is absent.
    """
    from packaging.requirements import Requirement

    findings = []
    for requirement in map(Requirement, requirements):
        name, version = requirement.name, installed(requirement.name)
        if version is None:
            findings.append(Finding("wrong", f"{name} is not installed", _pip(requirement)))
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{name} {version}; {requirement.specifier} is needed"
            findings.append(Finding("wrong", text, _pip(requirement)))
        else:
            findings.append(Finding("ok", f"{name} {version}"))
    return findings


def _pip(requirement, *options):
    # With its dependencies, tensorflow-text brings `tensorflow`, which overwrites tensorflow-tpu.
    if str(requirement).startswith("tensorflow-text") and not options:
        options = ("--no-deps",)
    return " ".join(["python -m pip install", *options, f'"{requirement}"'])


def check_backend(environment: Mapping[str, str]) -> list[Finding]:
    """Checks whether Keras would use the TensorFlow backend, given a mapping like `os.environ`."""
    backend, remedy = environment.get("KERAS_BACKEND"), "unset KERAS_BACKEND"
    if not backend:
        home = environment.get("KERAS_HOME", os.path.expanduser("~/.keras"))
        backend = _configured_backend(os.path.join(home, "keras.json"))
        remedy = "export KERAS_BACKEND=tensorflow"
    if backend == "tensorflow":
        return [Finding("ok", "Keras runs on TensorFlow")]
    return [Finding("wrong", f"Keras is set to run on {backend!r}", remedy)]


def _configured_backend(config_path):
    try:
        with open(config_path, encoding="utf-8") as file:
            return json.load(file).get("backend", "tensorflow")
    except (OSError, ValueError):  # Keras uses its defaults then.
        return "tensorflow"


def check_imports(
    modules: Iterable[str], load: Callable[[str], Any] = import_module
) -> list[Finding]:
    """Checks whether modules can be imported, in the order given.

    Args:
      modules: their names.
      load: function from a module's name to the module.
    """
    findings = []
    for name in modules:
        try:
            load(name)
            findings.append(Finding("ok", f"{name} imports"))
        except Exception as error:  # Reports whatever a broken installation raises.
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            text = f"{name} does not import ({reason})"
            findings.append(Finding("wrong", text, _reinstalling(name)))
    return findings


def _owners(module):
    return sorted(set(metadata.packages_distributions().get(module, [])))


def _reinstalling(module):
    owners = _owners(module)
    if len(owners) != 1 or module == "limoe_tf":
        return _INSTALL
    return _pip(f"{owners[0]}=={_version_of(owners[0])}", "--force-reinstall", "--no-deps")


def check_gin(origin: str | None, owned_files: Sequence[str]) -> list[Finding]:
    """Checks whether `import gin` would import gin-config and not a local folder.

    Args:
      origin: file that `import gin` would load; None if there is none, or only a plain folder.
      owned_files: paths that gin-config has installed; empty if it is absent.
    """
    if not owned_files or origin is None:
        remedy = _pip("gin-config>=0.5", "--force-reinstall")
        return [Finding("wrong", "gin-config is not installed, or not all of it", remedy)]
    if os.path.realpath(origin) not in {os.path.realpath(path) for path in owned_files}:
        return [Finding("wrong", f"{origin} hides gin-config", f"mv {origin} {origin}.hidden")]
    return [Finding("ok", "gin is gin-config")]


def check_vocabulary(path: str) -> list[Finding]:
    """Checks whether `path` is a SentencePiece model."""
    build = "python -m tpu_jobs.build_vocabulary"
    remedy = f"{build} --source=NAME_OR_FILES --output={path} --overwrite"
    if not os.path.isfile(path):
        return [Finding("wrong", f"there is no vocabulary at {path}", remedy)]
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=path).get_piece_size()
    except (OSError, RuntimeError):
        return [Finding("wrong", f"{path} is no SentencePiece model", remedy)]
    return [Finding("ok", f"vocabulary {path} has {pieces} pieces")]


def check_devices(devices: Iterable[tuple[str, str]], *, has_nvidia: bool) -> list[Finding]:
    """Lists the accelerators; if there are none, this is a note, not an error.

    Args:
      devices: list of pairs of kind and name.
      has_nvidia: whether the machine has NVIDIA's driver.
    """
    accelerators = [f"{kind} {name}" for kind, name in devices if kind in ("GPU", "TPU")]
    if accelerators:
        return [Finding("ok", f"accelerators: {', '.join(accelerators)}")]
    remedy = _pip("tensorflow[and-cuda]>=2.20,<2.22") if has_nvidia else ""
    return [Finding("note", "no accelerator found: training runs on the CPU", remedy)]


def _version_of(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements():
    settings = configparser.ConfigParser()
    if settings.read(_SETUP):
        lines = settings["options"]["install_requires"].split()
    else:
        lines = [line for line in metadata.requires("limoe_tf") if "extra ==" not in line]
    if _version_of("tensorflow-tpu"):  # Installed in place of `tensorflow` on TPU machines.
        lines = [re.sub("^tensorflow(?=[<>=])", "tensorflow-tpu", line) for line in lines]
    if version := _version_of("tensorflow-tpu") or _version_of("tensorflow"):
        # TensorFlow Text's operations are compiled for one minor version of TensorFlow.
        same = f"tensorflow-text=={'.'.join(version.split('.')[:2])}.*"
        lines = [same if line.startswith("tensorflow-text") else line for line in lines]
    return lines


def _check_gin():
    spec = util.find_spec("gin")
    files = metadata.files("gin-config") if _version_of("gin-config") else None
    return check_gin(spec and spec.origin, [str(file.locate()) for file in files or ()])


def _check_devices():
    import tensorflow as tf

    devices = [(device.device_type, device.name) for device in tf.config.list_physical_devices()]
    return check_devices(devices, has_nvidia=shutil.which("nvidia-smi") is not None)


def _checks(vocabulary):
    yield "Python", lambda: check_python(sys.version_info[:3])
    yield "TensorFlow", lambda: check_owners(_owners("tensorflow"))
    yield "versions", lambda: check_versions(_requirements(), _version_of)
    yield "Keras", lambda: check_backend(os.environ)
    yield "gin", _check_gin
    yield "imports", lambda: check_imports(_MODULES)
    yield "devices", _check_devices
    if vocabulary:
        yield "vocabulary", lambda: check_vocabulary(vocabulary)


def _findings(check):
    try:
        return check()
    except Exception as error:  # A check that fails must not prevent the others from running.
        return [Finding("wrong", f"not checked ({type(error).__name__}: {error})", _INSTALL)]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the findings as they come; returns 1 if any is wrong."""
    parser = argparse.ArgumentParser("limoe doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", help="a SentencePiece model to check as well")
    vocabulary = parser.parse_args(argv).vocabulary
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    wrong = 0
    print(f"{platform.platform()}, {sys.executable}")
    for title, check in _checks(vocabulary):
        print(title)
        for finding in _findings(check):
            wrong += finding.verdict == "wrong"
            # Flushed, because the import of a broken TensorFlow may end the process.
            print(f"  {finding.verdict:<6}{finding.text}", flush=True)
            if finding.remedy:
                print(f"        fix: {finding.remedy}", flush=True)
    failing = (
        f"{wrong} wrong: training would fail. Fix the first one first; it may cause the others."
    )
    print(failing if wrong else "ready to train")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
