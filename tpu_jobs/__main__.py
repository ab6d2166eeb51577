"""The command `limoe`, which starts the jobs: `limoe train ...` is `python -m tpu_jobs.train ...`.

Imports no job, so that a list of them appears at once.
"""

import ast
import difflib
import pathlib
import runpy
import sys

JOBS = (
    "train", "finetune", "evaluate", "export", "classify", "ask", "analyze", "prune_experts",
    "average_checkpoints", "build_vocabulary", "build_patch_codes", "build_answers", "fill_gaps",
    "build_icons", "convert_webdataset", "convert_prompts", "describe", "compile_check", "doctor",
)  # fmt: skip


def main() -> None:
    """Starts the job that the first argument names, with the others; without one, lists them."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "-help", "--help", "help"):
        print(overview())
        sys.exit(0 if arguments else 2)
    job = arguments[0].replace("-", "_")
    if job not in JOBS:
        near = difflib.get_close_matches(job, JOBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "`limoe --help` lists them"
        print(f"error: There is no command {arguments[0]!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"limoe {job}", *arguments[1:]]
    runpy.run_module(f"tpu_jobs.{job}", run_name="__main__", alter_sys=True)


def overview() -> str:
    """Returns the names of the jobs, with the first line of what each says of itself."""
    width = max(map(len, JOBS))
    return "\n".join(
        [
            "usage: limoe COMMAND [FLAGS]",
            "",
            "LIMoE and VL-MoE, sparse image-text models in TensorFlow and Keras.",
            "",
            *(f"  {job:<{width}}  {_first_line(job)}" for job in JOBS),
            "",
            "`limoe COMMAND --help` lists the flags of a command.",
            "Example: limoe train --gin_file=runs/quickstart.gin --workdir=runs/quickstart",
        ]
    )


def _first_line(job):
    text = pathlib.Path(__file__).with_name(f"{job}.py").read_text("utf-8")
    return ast.get_docstring(ast.parse(text)).splitlines()[0]


if __name__ == "__main__":
    main()
