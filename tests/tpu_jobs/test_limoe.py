"""The command `limoe`, which lists the jobs and starts them."""

import subprocess
import sys

import pytest

from tests.shared import repository
from tpu_jobs import __main__ as limoe


def run(*arguments):
    """Runs the command in a process that must not import TensorFlow."""
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from tpu_jobs.__main__ import main; sys.argv[0] = 'limoe'; main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=repository.ROOT, capture_output=True, text=True)


def test_the_list_names_every_job_and_what_it_does_without_tensorflow():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line[:2] == "  ")
    assert sorted(rows) == [path.stem for path in repository.job_files()]
    assert rows["train"] == "Trains the model that a gin file describes, and evaluates it."
    assert len(done.stdout.splitlines()) < 40


def test_without_a_command_or_with_an_unknown_one_the_exit_code_is_2():
    assert run().returncode == 2
    done = run("trian", "--workdir=a")
    assert done.returncode == 2
    assert done.stderr == "error: There is no command 'trian'; did you mean train?\n"
    assert "`limoe --help` lists them" in run("--workdir=a").stderr


@pytest.mark.parametrize("name", ["average_checkpoints", "average-checkpoints"])
def test_a_job_is_started_as_python_m_starts_it(name, monkeypatch):
    started = []
    monkeypatch.setattr(sys, "argv", ["limoe", name, "--last=3", "a"])
    monkeypatch.setattr(limoe.runpy, "run_module", lambda *a, **k: started.append((a, k, sys.argv)))
    limoe.main()
    named = {"run_name": "__main__", "alter_sys": True}
    argv = ["limoe average_checkpoints", "--last=3", "a"]
    assert started == [(("tpu_jobs.average_checkpoints",), named, argv)]
