import json
import pathlib
import subprocess
import sys

import pytest
from absl.testing import flagsaver

from limoe_tf.model import sizes
from tpu_jobs import describe

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run(capsys):
    """Runs the job with flags in place of the command line's; gives code, output and errors."""
    if not describe.flags.FLAGS.is_parsed():
        describe.flags.FLAGS(["describe"])

    def run(**values):
        with flagsaver.flagsaver(**values):
            code = describe.main(["describe"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_the_command_prints_the_counts_of_h14():
    command = [sys.executable, "-m", "tpu_jobs.describe", "--size=H/14", "--num_experts=32"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for count in ("5,553,770,241", "675,511,041", "491,520"):
        assert count in done.stdout


def test_json_holds_the_same_numbers(run, tmp_path):
    path = tmp_path / "new" / "b16.json"
    code, printed, _ = run(size="B/16", num_experts=8, json=str(path))
    assert code == 0
    read = json.loads(path.read_text())
    assert read["size"] == "B/16"
    assert read["architecture"]["num_experts"] == 8
    # 111,565,057 when dense; each of 6 sparse blocks adds 7 x 4,722,432 and a router of 768 x 8.
    assert read["parameters"]["total"] == 111_565_057 + 6 * (7 * 4_722_432 + 768 * 8)
    assert f"{read['parameters']['total']:,}" in printed
    flops = read["forward_flops_per_pair"]
    assert flops["total"] == sum(value for name, value in flops.items() if name != "total")
    assert read["bytes"]["weights"] == 4 * read["parameters"]["total"]


def test_plan_and_shapes_can_be_changed(run, tmp_path):
    path = tmp_path / "b32.json"
    run(size="B/32", plan="0,11", image_size=256, text_length=8, embedding_size=512, json=str(path))
    read = json.loads(path.read_text())["architecture"]
    assert read["plan"] == ["sparse"] + ["dense"] * 10 + ["sparse"]
    assert (read["image_size"], read["text_length"], read["embedding_size"]) == (256, 8, 512)


def test_a_dense_plan_speaks_of_no_experts(run):
    _, printed, _ = run(size="B/16", plan="dense")
    assert "111,565,057" in printed
    assert "each sparse block" not in printed


@pytest.mark.parametrize(
    "values, fault",
    [
        ({"size": None}, "--size must be given"),
        ({"size": "XL/8"}, "`size` must be one of"),
        ({"size": "B/16", "plan": "often"}, "`plan` must be 'dense' or numbers of blocks"),
        ({"size": "B/16", "plan": "12"}, "between 0 and 11"),
        ({"size": "B/16", "num_experts": 4, "num_choices": 5}, "between 1 and num_experts=4"),
    ],
)
def test_a_mistake_is_one_line_and_code_1(run, values, fault):
    code, printed, errors = run(**values)
    assert (code, printed) == (1, "")
    assert fault in errors
    assert errors.count("\n") == 1


def test_every_size_has_a_table(run):
    for size in sizes.NAMES:
        code, printed, _ = run(size=size)
        assert code == 0
        assert printed.startswith(f"{size}: ")


def test_vlmoe_base_has_the_published_number_of_parameters(run, tmp_path):
    path = tmp_path / "base.json"
    code, printed, _ = run(size="VL-MoE-BASE", num_experts=32, json=str(path))
    assert code == 0
    read = json.loads(path.read_text())
    count = read["parameters"]["without_heads"]
    assert f"{count:,}" in printed and round(count / 1e6) == 1958
    flops = read["forward_flops"]
    assert flops["total"] == sum(value for name, value in flops.items() if name != "total")
    run(size="VL-MoE-BASE", plan="dense", json=str(path))
    dense = json.loads(path.read_text())
    assert round(dense["parameters"]["without_heads"] / 1e6) == 201
    # 96 word pieces and a class token.
    per_token = 8 * 768**2 + 4 * 768 * 3072
    assert dense["forward_flops"]["text"] == 12 * 97 * (per_token + 4 * 97 * 768)
    assert run(size="VL-MoE-BASE", embedding_size=5)[0] == 1


def test_experts_of_one_modality_are_counted_where_it_has_numbers_of_its_own():
    options = {"vocabulary_size": 100, "num_codes": 8}
    both, fewer = (
        describe.describe_vlmoe("vlmoe-tiny", num_experts=experts, **options)
        for experts in (4, {"image": 4, "text": (3, 1)})
    )
    # Blocks 1 and 3 are sparse: an expert and three are missing, with their columns of the router.
    expert = 2 * 128 * 512 + 512 + 128
    missing = both["parameters"]["without_heads"] - fewer["parameters"]["without_heads"]
    assert missing == 4 * (expert + 128)
    # The 97 tokens of a text alone meet both routers, those of a pair only that of block 1.
    routers = (both["forward_flops"]["sparse_routers"], fewer["forward_flops"]["sparse_routers"])
    assert routers[0] - routers[1] == 2 * 128 * 97 * (2 * 1 + 3)
    assert fewer["forward_flops"]["sparse_experts"] == both["forward_flops"]["sparse_experts"]
