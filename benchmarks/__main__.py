"""Runs the benchmarks: tables in Markdown on the standard output, all numbers in JSON files.

    python -m benchmarks [--only=sparse_layer] [--rounds=20]
"""

import argparse
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks import sparse_layer, timing

TABLES = {"sparse_layer": sparse_layer.measure}


def main(arguments=None):
    """Reads the command line, and measures."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measures limoe_tf.")
    parser.add_argument("--only", choices=TABLES, help="the one table to make; all if left out")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=2, help="threads of TensorFlow")
    parser.add_argument("--folder", type=pathlib.Path, default="runs/benchmarks", help="for JSON")
    options = parser.parse_args(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    for name in [options.only] if options.only else TABLES:
        publish(name, TABLES[name](rounds=options.rounds, say=say), options.folder)


def publish(name, table, folder):
    """Prints a `timing.Table`, and writes its records to `<folder>/<name>.json`."""
    environment = timing.environment()
    print(timing.markdown(table, environment), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    results = {"title": table.title, "environment": environment, "rows": table.records}
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def say(text):
    """Shows progress on the standard error stream, which is no part of the results."""
    print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
