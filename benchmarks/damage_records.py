"""Damages records, shards and tars, and looks at what the input pipeline makes of them.

    .venv/bin/python -m benchmarks.damage_records [--only=records|shards|tars] [--seed=0]

Nothing may stop reading or conversion. Of 12,000 damaged records, through evaluation, training and
training with random crops, each must be delivered or named as bad; of 100 damaged shards every
whole record must be used and every lost byte be named, wherever reading begins; of 300 damaged tars
every file must be written or named. No part may take 2 GB. The exit code is 1 if one does.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures.process import BrokenProcessPool

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import damaged_examples, damaged_shards, damaged_tars, memory
from benchmarks.damage import Result

MOST_BYTES = 2_000_000_000
_MOST_SECONDS = 3600
_FAULTS_SHOWN = 20
# Each part with how many inputs it damages.
PARTS = {
    "records": (damaged_examples.measure, 12_000),
    "shards": (damaged_shards.measure, 100),
    "tars": (damaged_tars.measure, 300),
}


def run(part: str, *, seed: int, count: int | None = None) -> tuple[Result, dict]:
    """Runs a part in a process of its own, whose end by a damaged input is a fault like others.

    Args:
      part: of `PARTS`.
      seed: of the damage.
      count: inputs; None takes that of the part.

    Returns:
      Result; and `seconds`, and `bytes` of memory at most.
    """
    new, start = multiprocessing.get_context("spawn"), time.monotonic()
    count = count or PARTS[part][1]
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=new) as process:
        try:
            result, peak = process.submit(_run, part, seed, count).result(_MOST_SECONDS)
        except BrokenProcessPool:
            result, peak = Result(count, "", "", ["the process was ended"]), 0
    if peak > MOST_BYTES:
        result.faults.append(f"{peak:,} bytes of memory, more than {MOST_BYTES:,}")
    return result, {"seconds": time.monotonic() - start, "bytes": peak}


def _run(part, seed, count):
    with tempfile.TemporaryDirectory() as folder:
        result = PARTS[part][0](folder, count=count, seed=seed, say=_say)
    return result, memory.peak()


def _say(line):
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="inputs of each part in place of its own number")
    options = parser.parse_args()
    rows, faults = [], []
    for part in [options.only] if options.only else PARTS:
        result, costs = run(part, seed=options.seed, count=options.count)
        faults += [f"{part}: {fault}" for fault in result.faults]
        cells = [part, f"{result.inputs:,}", result.used, result.lost, len(result.faults)]
        cells += [f"{costs['seconds']:.0f}", f"{costs['bytes'] / 1e6:,.0f}"]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    print("| part | inputs | used | lost and named | faults | seconds | MB |")
    print("|---|---|---|---|---|---|---|", *rows, sep="\n", flush=True)
    for fault in faults[:_FAULTS_SHOWN]:
        print(fault)
    if faults:
        sys.exit(f"{len(faults)} promises are broken.")


if __name__ == "__main__":
    main()
