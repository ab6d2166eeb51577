"""Converts WebDataset tars, as img2dataset and others write them, into TFRecord files to train on.

    python -m tpu_jobs.convert_webdataset --input="tars/*.tar" --output_dir=data
    python -m tpu_jobs.convert_webdataset --input="gs://bucket/tars/*.tar" \\
        --output_dir=gs://bucket/data --image=jpg,png --caption=json:caption

`a.tar` becomes `a.tfrecord`; `a.tfrecord.json` lists the samples that were left out and why, and
`report.json` is the summary. A restarted job resumes: a tar is converted again only if the tar,
--image or --caption has changed. The exit code is 1 if nothing could be converted or a tar could
not be read to its end; the samples before that point are kept.
"""

import collections
import concurrent.futures
import datetime
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

import tensorflow as tf
from absl import app, flags

from limoe_tf import checks
from limoe_tf.data import images, webdataset
from tpu_jobs import errors, usage

_SECONDS_BETWEEN_LINES = 5
_NUM_PLACES = 3


def convert(
    pattern: str,
    folder: str,
    *,
    image: Sequence[str] = images.SUFFIXES,
    caption: str = "txt",
    num_workers: int = 1,
) -> None:
    """Converts tars and prints the progress.

    Args:
      pattern: path or glob of the tars.
      folder: output folder.
      image: suffixes of images, see `webdataset.convert`.
      caption: suffix of the caption, and its key in JSON, see `webdataset.convert`.
      num_workers: processes.

    Raises:
      ValueError: if there are no tars or two of one name; after all is done, if a tar could not be
        read to its end or nothing was converted.
      tf.errors.OpError: if a file cannot be read or written.
    """
    checks.positive_int("num_workers", num_workers)
    outputs = _outputs(pattern, checks.plain_path("output_dir", folder))
    tf.io.gfile.makedirs(folder)
    settings = {"image": list(image), "caption": caption}
    # In threads, because each request to a bucket has a high latency.
    with concurrent.futures.ThreadPoolExecutor(32) as threads:
        facts = list(threads.map(lambda tar: {**_facts(tar), **settings}, outputs))
        notes = list(threads.map(_note, outputs.values()))
    done, tasks, changed = {}, [], 0
    for (tar, path), wanted, note in zip(outputs.items(), facts, notes):
        if note and note["from"] == wanted:
            done[tar] = note
        else:
            tasks.append((tar, path, wanted))
            changed += note is not None
    print(f"{len(outputs):,} tars, {len(done):,} of them converted already", flush=True)
    if changed:
        print(f"{changed:,} tars, or the flags, have changed: converted again", flush=True)
    for tar, note in _with_progress(_converted(tasks, num_workers), len(tasks)):
        done[tar] = note
    _report({tar: done[tar] for tar in outputs}, folder)


def _outputs(pattern, folder):
    """Returns dict of tar to the file to write."""
    try:
        tars = sorted(tf.io.gfile.glob(pattern))
    except UnicodeDecodeError as error:
        rule = "--input must match files with names in UTF-8."
        raise ValueError(f"{rule} Received: --input={pattern}") from error
    if not tars:
        raise ValueError(f"--input must match at least one file. Received: --input={pattern}")
    outputs = {}
    for tar in tars:
        path = os.path.join(folder, f"{os.path.basename(tar).removesuffix('.tar')}.tfrecord")
        if path in outputs.values():
            raise ValueError(f"The tars must have distinct file names. Received: {tar} and another")
        outputs[tar] = path
    return outputs


def _facts(tar):
    stat = tf.io.gfile.stat(tar)
    return {"num_bytes": stat.length, "modified_ns": stat.mtime_nsec}


def _note(path):
    """Returns the JSON written when a file was finished, or None if it is not finished."""
    try:
        with tf.io.gfile.GFile(f"{path}.json") as file:
            note = json.load(file)
        return note if tf.io.gfile.stat(path).length == note["num_bytes"] else None
    # A note that is damaged says nothing of the file either.
    except (tf.errors.NotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_json(path, value):
    with tf.io.gfile.GFile(f"{path}.partial", "w") as file:
        file.write(json.dumps(value, indent=1))
    tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)


def _convert_one(tar, path, facts):
    converted = webdataset.convert(tar, path, image=facts["image"], caption=facts["caption"])
    # The note is written last: without it the file does not count as finished.
    note = {"from": facts, **converted._asdict()}
    _write_json(f"{path}.json", note)
    return note


def _converted(tasks, num_workers):
    """Yields (tar, note) of each task, in any order."""
    num_workers = min(num_workers, len(tasks))
    if num_workers < 2:
        for task in tasks:
            yield task[0], _convert_one(*task)
        return
    # TensorFlow is not safe to fork.
    context = multiprocessing.get_context("spawn")
    workers = concurrent.futures.ProcessPoolExecutor(num_workers, context, _end_with_parent)
    try:
        tars = {workers.submit(_convert_one, *task): task[0] for task in tasks}
        for future in concurrent.futures.as_completed(tars):
            yield tars[future], future.result()
    except BrokenProcessPool as error:
        raise OSError(
            "A process of --num_workers was killed, for example because memory ran out."
        ) from error
    finally:
        workers.shutdown(cancel_futures=True)


def _end_with_parent():
    """Ends this process when its parent is killed; otherwise it would wait forever."""
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _with_progress(converted, num_tasks):
    """Passes (tar, note) through, and prints the rate and the time left every few seconds."""
    start = printed = time.monotonic()
    num_bytes = num_records = 0
    for count, (tar, note) in enumerate(converted, start=1):
        yield tar, note
        num_bytes += note["from"]["num_bytes"]
        num_records += note["num_records"]
        now = time.monotonic()
        if now - printed > _SECONDS_BETWEEN_LINES or count == num_tasks:
            printed, seconds = now, now - start
            left = datetime.timedelta(seconds=round(seconds / count * (num_tasks - count)))
            print(
                f"{count:,} of {num_tasks:,} tars converted, {num_records:,} records, "
                f"{num_bytes / 1e6 / seconds:,.0f} MB/s, {left} left",
                flush=True,
            )


def _report(done, folder):
    """Prints the summary and writes it as `report.json`.

    Args:
      done: dict of tar to note, in a fixed order.
      folder: output folder.

    Raises:
      ValueError: if a tar could not be read to its end, or nothing was converted.
    """
    counts, places = collections.Counter(), collections.defaultdict(list)
    for tar, note in done.items():
        for reason, names in note["left_out"].items():
            counts[reason] += len(names)
            names = names[: _NUM_PLACES - len(places[reason])]
            places[reason] += [f"{tar}: {name}" for name in names]
    num_records = sum(note["num_records"] for note in done.values())
    faults = {tar: note["fault"] for tar, note in done.items() if note["fault"]}
    report = {
        "tars": len(done),
        "records": num_records,
        "left_out": {r: {"count": n, "first": places[r]} for r, n in counts.most_common()},
        "not_read_to_the_end": faults,
    }
    _write_json(os.path.join(folder, "report.json"), report)
    print(
        f"{num_records:,} records of {len(done):,} tars in {folder}; left out: {counts.total():,}"
    )
    for reason, count in counts.most_common():
        more = ", ..." if count > len(places[reason]) else ""
        print(f"  {count:,} x {reason} ({', '.join(places[reason])}{more})", flush=True)
    if faults:
        first = "; ".join(f"{tar}: {fault}" for tar, fault in list(faults.items())[:_NUM_PLACES])
        raise ValueError(
            f"Every tar must be whole. Received: {len(faults):,} that could not be read to the end "
            f"({first}); what could be read is converted"
        )
    if not num_records:
        raise ValueError("Some samples must have an image and a caption. Received: none of them")


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_string("input", None, "the tars: a path or pattern, not compressed")
    flags.DEFINE_string("output_dir", None, "folder of the TFRecord files")
    flags.DEFINE_string("caption", "txt", "suffix of the caption, or json:KEY for one in JSON")
    flags.DEFINE_integer("num_workers", min(8, os.cpu_count()), "processes")
    flags.DEFINE_list(
        "image", ",".join(images.SUFFIXES), "suffixes of images; the first found is taken"
    )
    flags.mark_flags_as_required(["input", "output_dir"])


@errors.in_one_line
def main():
    values = flags.FLAGS
    convert(
        os.path.expanduser(values.input),
        os.path.expanduser(values.output_dir),
        image=values.image,
        caption=values.caption,
        num_workers=values.num_workers,
    )


if __name__ == "__main__":
    # Inherited by the workers, which would otherwise each allocate the GPUs and log warnings.
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
