"""The help of a job: what it does, an example, and a line for each of its flags."""

import pathlib
import re
import sys
import types
from collections.abc import Sequence

from absl import app, flags


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses a job's flags, for `absl.app.run`; `--help` prints its own and the shared ones.

    Args:
      argv: the command line, with the program first.

    Returns:
      list of the program and the positional arguments.
    """
    given = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if {"-h", "-help", "--help"} & set(given):
        print(text(sys.modules["__main__"], flags.FLAGS))
        sys.exit(0)
    return app.parse_flags_with_usage(argv)


def text(job: types.ModuleType, values: flags.FlagValues) -> str:
    """Returns the help of a job.

    Args:
      job: its module.
      values: the flags that are defined.
    """
    own, shared = [], []
    for module, found in values.flags_by_module_dict().items():
        if module == "tpu_jobs.command":
            shared += found
        elif module.startswith("tpu_jobs.") or module == sys.argv[0]:
            own += found
    name = pathlib.Path(job.__file__).stem
    first, _, rest = job.__doc__.strip().partition("\n")
    parts = [first, f"usage: limoe {name} [FLAGS], or python -m tpu_jobs.{name} [FLAGS]"]
    parts += [rest.strip("\n")]
    parts += [_table("flags", own), _table("flags that the jobs share", shared)]
    return "\n\n".join(part for part in parts if part)


def _table(title, found):
    if not found:
        return ""
    rows = [(_name(flag), _meaning(flag)) for flag in sorted(found, key=lambda flag: flag.name)]
    width = max(len(name) for name, _ in rows)
    lines = (f"  {name:<{width}}  {meaning}" for name, meaning in rows)
    return "\n".join([f"{title}:", *lines])


def _name(flag):
    return f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}="


def _meaning(flag):
    meaning = re.sub(r";\s+repeat this option .*", "; may be repeated", flag.help)
    if flag.default not in (None, []) and "default:" not in meaning:
        default = flag.default_as_str.strip("'")
        meaning += f"; default: {default}"
    return meaning
