import importlib
import re
import sys

import pytest
from absl import flags

from tests.shared import repository
from tpu_jobs import describe, usage

# The doctor knows nothing of absl, which may be what is broken.
JOBS = [path.stem for path in repository.job_files() if path.stem != "doctor"]


@pytest.mark.parametrize("name", JOBS)
def test_the_help_of_a_job_is_short_and_has_a_line_for_each_flag_and_an_example(name):
    values = repository.job_flags(f"tpu_jobs.{name}")
    text = usage.text(importlib.import_module(f"tpu_jobs.{name}"), values)
    lines = text.splitlines()
    assert len(lines) < 40 and max(map(len, lines)) <= 120
    named = re.findall(r"^  --(?:\[no\])?(\w+)=? +\S", text, re.MULTILINE)
    assert sorted(named) == sorted(values)
    assert re.search(rf"^ *(\.venv-tpu/bin/)?python -m tpu_jobs.{name} --", text, re.MULTILINE)
    assert f"usage: limoe {name} [FLAGS]" in text


def test_a_flag_is_shown_with_its_default_and_whether_it_may_be_repeated():
    values = flags.FlagValues()
    own = {"flag_values": values, "module_name": "tpu_jobs.a"}
    flags.DEFINE_string("plain", "a b", "a text", **own)
    flags.DEFINE_integer("rate", None, "a rate; default: the best", **own)
    flags.DEFINE_bool("fast", True, "whether it is fast", **own)
    flags.DEFINE_multi_string("name", [], "a name", values, module_name="tpu_jobs.command")
    flags.DEFINE_string("other", None, "of another package", values, module_name="absl.logging")
    assert usage.text(describe, values).partition("\n\nflags:\n")[2].splitlines() == [
        "  --[no]fast  whether it is fast; default: true",
        "  --plain=    a text; default: a b",
        "  --rate=     a rate; default: the best",
        "",
        "flags that the jobs share:",
        "  --name=  a name; may be repeated",
    ]


def test_help_is_printed_and_ends_the_job_well(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "__main__", describe)
    with pytest.raises(SystemExit) as stop:
        usage.parse_flags(["describe", "--size=tiny", "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("Prints the cost of a model without building it")
