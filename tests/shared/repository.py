"""Whether what a page of the documentation names is there: paths, names, flags, targets."""

import ast
import contextlib
import copy
import functools
import importlib
import keyword
import re
import types
from unittest import mock

from absl import flags

from tests.shared.documents import ROOT, read

FOLDERS = ("limoe_tf", "tpu_jobs", "benchmarks", "gin", "tests", "docs")
SOURCES = ("limoe_tf/**/*.py", "tpu_jobs/*", "benchmarks/*.py", "gin/**/*.gin", "Makefile")
FILE_ENDINGS = {
    *(
        "py",
        "md",
        "gin",
        "json",
        "jsonl",
        "csv",
        "npz",
        "png",
        "jpg",
        "html",
        "keras",
        "model",
        "lock",
    ),
    *("tfrecord", "txt", "cfg", "sh", "tar"),
}
OTHER_PACKAGES = ("keras", "tf")


def make_targets():
    return set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))


def job_files():
    """Returns the paths of the programs in `tpu_jobs`."""
    files = ROOT.glob("tpu_jobs/[!_]*.py")
    return sorted(path for path in files if '__name__ == "__main__"' in path.read_text("utf-8"))


def job_flags(name):
    """Returns new `FlagValues` with the flags that a job knows, its own and the shared ones."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    job = importlib.import_module(name)
    by_module = flags.FLAGS.flags_by_module_dict()
    for module in _modules_of_jobs(job):
        for flag in by_module.get(module, ()):
            values[flag.name] = copy.deepcopy(flag)
            values.register_flag_by_module(module, values[flag.name])
    with _defined_in(values):
        getattr(job, "define_flags", lambda: None)()
    return values


def _modules_of_jobs(module):
    """Returns the names of a module and of those of `tpu_jobs` that it imports, all the way."""
    found, waiting = set(), [module]
    while waiting:
        module = waiting.pop()
        if module.__name__ not in found and module.__name__.startswith("tpu_jobs."):
            found.add(module.__name__)
            waiting += [v for v in vars(module).values() if isinstance(v, types.ModuleType)]
    return found


@contextlib.contextmanager
def _defined_in(values):
    """Lets absl define flags in `values` instead of the process' own."""
    names = [n for n in dir(flags) if n.startswith("DEFINE_")] + ["mark_flags_as_required"]
    changed = {n: functools.partial(getattr(flags, n), flag_values=values) for n in names}
    with mock.patch.multiple(flags, **changed):
        yield


def parse_benchmark(module, arguments):
    """Raises SystemExit or AssertionError if a benchmark does not take these arguments."""
    if module == "benchmarks":
        importlib.import_module("benchmarks.__main__").read_options(list(arguments))
        return
    text = read(f"{module.replace('.', '/')}.py")
    assert all(f'"{word.split("=")[0]}"' in text for word in arguments if word.startswith("--"))


def gin_bindings(path):
    """Returns dict of the values, as text, by name, of a gin file and those that it includes."""
    found, inside = {}, None
    for line in read(path).splitlines():
        if included := re.match(r'include "(.+)"', line):
            found.update(gin_bindings(included[1]))
        elif opened := re.match(r"([\w./]+):$", line):
            inside = opened[1]
        elif bound := re.match(r"( *)([\w./]+) = (.+)$", line):
            indent, name, value = bound.groups()
            found[f"{inside}.{name}" if indent else name] = value
    return found


def is_path_here(code):
    """Whether code names a file or folder of this repository."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", code):
        return False
    package = {path.name for path in (ROOT / "limoe_tf").iterdir() if path.is_dir()}
    return code.endswith(".py") or ("/" in code and code.split("/")[0] in {*FOLDERS, *package})


def path_exists(code):
    return any((folder / code).exists() for folder in (ROOT, ROOT / "limoe_tf"))


def is_file_name(code):
    """Whether code names a file, but none of this repository."""
    is_name = re.fullmatch(r"[\w.-]+", code) and code.split(".")[-1] in FILE_ENDINGS
    return bool(is_name) and code.count(".") == 1 and not is_path_here(code)


def is_dotted(code):
    """Whether code is a dotted name of Python, perhaps called."""
    if is_file_name(code) or is_path_here(code):
        return False
    return re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(\(.*\))?", code) is not None


def is_defined(name):
    """Whether a dotted name is that of something in this repository, or in Keras or TensorFlow.

    It may begin with a module, with or without the packages around it, or with a class; arguments
    count as parts of functions and classes.
    """
    parts = name.split("(")[0].split(".")
    if parts[0] in OTHER_PACKAGES:
        return _is_attribute(parts)
    return any(_holds(tree, parts[length:]) for length, tree in _starts(parts))


def _is_attribute(parts):
    package = importlib.import_module({"tf": "tensorflow"}.get(parts[0], parts[0]))
    try:
        functools.reduce(getattr, parts[1:], package)
    except AttributeError:
        return False
    return True


def _starts(parts):
    """Yields (parts used, syntax tree) for each module or class with which a name may begin."""
    for path, tree in _trees().items():
        module = path.removesuffix(".py").removesuffix("/__init__").split("/")
        for length in range(1, len(parts) + 1):
            if module[-length:] == parts[:length]:
                yield length, tree
        yield from ((1, n) for n in tree.body if isinstance(n, ast.ClassDef) and n.name == parts[0])


@functools.cache
def _trees():
    files = [path for pattern in SOURCES for path in ROOT.glob(pattern) if path.suffix == ".py"]
    return {p.relative_to(ROOT).as_posix(): ast.parse(p.read_text("utf-8")) for p in files}


def _holds(node, parts):
    if not parts:
        return True
    inside = _inside(node)
    return parts[0] in inside and _holds(inside[parts[0]], parts[1:])


def _inside(node):
    """Returns dict by name of what a module, class or function holds; None stands for a leaf."""
    if isinstance(node, ast.FunctionDef):
        return dict.fromkeys(argument.arg for argument in _arguments(node))
    found = {}
    for child in getattr(node, "body", ()):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            found[child.name] = child
        elif isinstance(child, (ast.Assign, ast.AnnAssign)):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            found.update(dict.fromkeys(t.id for t in targets if isinstance(t, ast.Name)))
    if isinstance(node, ast.ClassDef) and isinstance(found.get("__init__"), ast.FunctionDef):
        found.update(_inside(found["__init__"]))
    return found


def _arguments(function):
    return [*function.args.args, *function.args.kwonlyargs]


def default_of(name):
    """Returns the default of an argument, such as `limoe.Limoe.capacity_factor`."""
    *owner, argument = name.split(".")
    for length, node in _starts(owner):
        for part in owner[length:]:
            node = _inside(node).get(part)
        function = _inside(node)["__init__"] if isinstance(node, ast.ClassDef) else node
        if isinstance(function, ast.FunctionDef):
            return ast.literal_eval(_defaults(function)[argument])
    raise LookupError(name)


def _defaults(function):
    arguments = function.args
    with_default = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    found = zip(
        [*with_default, *arguments.kwonlyargs], [*arguments.defaults, *arguments.kw_defaults]
    )
    return {argument.arg: value for argument, value in found if value is not None}


@functools.cache
def source_text():
    """Returns the text of all sources, gin files, shell scripts and the Makefile."""
    files = [path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file()]
    return "\n".join(path.read_text("utf-8") for path in files)


@functools.cache
def source_words():
    return {*re.findall(r"\w+", source_text()), *keyword.kwlist}
