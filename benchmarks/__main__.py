"""Runs the benchmarks: Markdown on the standard output, and every number in JSON files.

python -m benchmarks [--only sparse_layer] [--rounds=10] [--data=PATTERN]
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks import (
    fit,
    growth,
    inference,
    input_pipeline,
    parts,
    sparse_layer,
    timing,
    train_step,
)

TABLES = {
    "sparse_layer": lambda options: sparse_layer.measure(rounds=options.rounds, progress=show),
    "parts": lambda options: parts.measure(rounds=options.rounds, progress=show),
    "growth": lambda options: growth.measure(rounds=options.rounds, progress=show),
    "train_step": lambda options: train_step.measure(rounds=options.rounds, progress=show),
    "fit": lambda options: fit.measure(rounds=options.rounds, progress=show),
    "inference": lambda options: inference.measure(rounds=options.rounds, progress=show),
    "input_pipeline": lambda options: input_pipeline.measure(
        rounds=options.rounds, progress=show, threads=options.threads, data=options.data
    ),
}


def main():
    """Reads the command line, and measures.

    Each of several tables is made in a process of its own: TensorFlow frees little of the memory
    that hundreds of experts took.
    """
    options = read_options()
    if len(options.only) > 1:
        for name in options.only:
            again = [sys.executable, "-m", "benchmarks", *sys.argv[1:], "--only", name]
            code = subprocess.run(again).returncode
            if code:
                sys.exit(f"The table `{name}` was not made: its process ended with {code}.")
        return
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    tf.get_logger().setLevel("ERROR")  # It takes many functions of one name for retracing.
    (name,) = options.only
    publish(name, TABLES[name](options), options.folder)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the options of a command line."""
    description = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=description)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE",
                        help=f"tables to make, of: {', '.join(TABLES)}")  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, default=10, help="how often each layer or form is measured"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of TensorFlow")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/benchmarks"),
                        help="where the JSON files go")  # fmt: skip
    parser.add_argument("--data", metavar="PATTERN",
                        help="TFRecords of photographs instead of made ones")  # fmt: skip
    options = parser.parse_args(arguments)
    for name in ("rounds", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"`--{name}` must be at least 1. Received: {getattr(options, name)}")
    return options


def publish(name: str, table: timing.Table, folder: pathlib.Path) -> None:
    """Prints a `timing.Table`, and writes its records to `<folder>/<name>.json`."""
    environment = timing.environment()
    print(timing.markdown(table, environment), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    results = {"title": table.title, "environment": environment, "rows": table.records}
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def show(text: str) -> None:
    """Shows progress on the standard error stream; results go to the standard output."""
    print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
