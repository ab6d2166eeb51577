"""What the documentation shows is so: its code runs, its commands parse, what it names is there."""

import ast
import re
import shlex

import pytest
from absl import flags

import gin
from limoe_tf.data import icons
from tests.shared import documents, exported, repository
from tpu_jobs import gin_files

ROOT = documents.ROOT
PAGES = documents.pages()
BLOCKS = [block for page in PAGES for block in documents.blocks(page)]
PYTHON = sorted({block.page for block in BLOCKS if block.language == "python"})
COMMANDS = [
    pytest.param(block.page, command, id=f"{block.page}:{command[:60]}")
    for block in BLOCKS
    if block.language == "bash"
    for command in documents.commands(block.text)
]
# The changelog speaks of names that are gone.
INLINE = [
    (page, code) for page in PAGES if page != "CHANGELOG.md" for code in documents.inline_code(page)
]


def test_there_are_the_pages_that_a_reader_looks_for():
    names = (
        *("data", "training", "evaluation", "downstream", "looking_inside", "export", "tpu"),
        *("performance", "results", "design", "papers", "vlmoe"),
    )
    assert {f"docs/{name}.md" for name in names} <= set(PAGES)
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= set(PAGES)


def test_the_readme_is_of_one_screen_or_two():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


def test_every_code_block_says_its_language():
    assert {block.language for block in BLOCKS} == {"bash", "gin", "python", "text"}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to run code in, but for a model and an image where pages read them."""
    monkeypatch.chdir(tmp_path)
    exported.write_png(tmp_path / "a.png", 0)
    return tmp_path


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_a_page_runs(page, workplace):
    if page == "docs/export.md":
        exported.small_model(workplace / "model")
    names = {}
    for block in documents.blocks(page):
        if block.language == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)


@pytest.mark.parametrize("page, command", COMMANDS)
def test_a_command_parses(page, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    variables, program, *arguments = documents.words(command)
    if program == "make":
        (target,) = arguments
        assert target in repository.make_targets()
    elif program == "bash":
        (script,) = arguments
        assert_names_variables(script, variables)
    elif program == "npm":
        assert arguments == ["pack", icons.PACKAGE]
    elif program == "cp":
        assert (ROOT / arguments[-1]).exists()
    elif program == ".ci/run":
        assert not arguments and (ROOT / program).exists()
    else:
        assert program in ("python", ".venv/bin/python", ".venv-tpu/bin/python")
        assert arguments[0] == "-m"
        assert_module_takes(*arguments[1:])


def assert_names_variables(script, variables):
    text = (ROOT / script).read_text("utf-8") + (ROOT / "tpu_jobs/train_on_tpu.sh").read_text()
    assert all(f"${{{name}:" in text for name in variables)


def assert_module_takes(module, *arguments):
    if module == "pytest":
        assert all((ROOT / path).exists() for path in arguments)
    elif module.startswith("benchmarks"):
        repository.parse_benchmark(module, arguments)
    elif not arguments:
        assert repository.is_defined(module)
    else:
        values = repository.job_flags(module)
        rest = values([module, *arguments])[1:]
        assert not rest or module in ("tpu_jobs.classify", "tpu_jobs.ask")
        if "gin_file" in values and values.gin_file:
            assert_gin_takes(values.gin_file, values.gin_param)


def assert_gin_takes(files, bindings):
    """Every file and binding is good, each macro is one of the files', and none is missing."""
    try:
        gin_files.parse(files, bindings)
    finally:
        gin.clear_config()
    given = [line.split("=")[0].strip() for line in bindings]
    known = {name for path in files for name in repository.gin_bindings(path)}
    assert {name for name in given if "." not in name} <= known


@pytest.mark.parametrize("command", [code for _, code in INLINE if " -m " in code])
def test_a_command_in_a_sentence_parses(command):
    assert_module_takes(*shlex.split(command)[2:])


@pytest.mark.parametrize("code", [code for _, code in INLINE if re.match(r"make \w", code)])
def test_a_make_target_in_a_sentence_is_there(code):
    assert code.split()[1] in repository.make_targets()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "gin"], ids=lambda b: b.page)
def test_the_gin_of_a_page_is_good(block, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "page.gin"
    path.write_text(block.text, "utf-8")
    try:
        gin_files.parse([str(path)], [])
    finally:
        gin.clear_config()


def test_gin_values_that_pages_name_are_those_of_the_files():
    known = repository.gin_bindings("gin/runs/b16.gin")
    page = (ROOT / "docs/papers.md").read_text("utf-8")
    page = page[page.index("is in `gin/runs/b16.gin`") :]
    named = dict(re.findall(r"`([\w.]+) = (.+?)`", page))
    assert len(named) >= 9
    assert {name: known.get(name) for name in named} == named


def test_every_path_that_a_page_names_is_there():
    named = {(page, code) for page, code in INLINE if repository.is_path_here(code)}
    assert len(named) > 60
    assert sorted(one for one in named if not repository.path_exists(one[1])) == []


def test_every_dotted_name_that_a_page_names_is_there():
    named = {(page, code) for page, code in INLINE if repository.is_dotted(code)}
    assert len(named) > 80
    assert sorted(one for one in named if not repository.is_defined(one[1])) == []


def test_every_word_of_code_that_a_page_names_is_in_the_sources():
    named = {(page, code) for page, code in INLINE if re.fullmatch(r"[A-Za-z_]\w+", code)}
    known = repository.source_words()
    assert len(named) > 80
    assert sorted(one for one in named if one[1] not in known) == []


def test_every_file_that_a_page_says_is_written_is_written_by_the_sources():
    named = {(page, code) for page, code in INLINE if repository.is_file_name(code)}
    assert len(named) > 10
    assert sorted(one for one in named if one[1] not in repository.source_text()) == []


def test_every_flag_in_a_sentence_is_in_the_sources():
    named = [(page, code, word) for page, code in INLINE if code.startswith("--")
             for word in re.findall(r"[a-z]\w+", code)]  # fmt: skip
    known = repository.source_words()
    assert len(named) > 10
    assert [one for one in named if one[2] not in known] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in documents.links(page):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), target
        if anchor:
            assert anchor in documents.anchors(there), target


@pytest.mark.parametrize(
    "what, value, where, why",
    [
        *documents.rows("docs/papers.md", "| open | default here | set by | why |"),
        *documents.rows("docs/vlmoe.md", "| open | default here | set by | why |"),
    ],
)
def test_a_default_of_the_papers_page_is_that_of_the_code(what, value, where, why):
    stated = re.match(r"`(.+?)`", value)
    where = where.strip("`").split("`")[0]
    assert repository.is_defined(where), what
    if stated:
        assert repository.default_of(where) == ast.literal_eval(stated[1]), what


def test_the_weights_of_the_papers_page_are_those_of_the_code():
    from limoe_tf.objectives.total import DEFAULT_WEIGHTS

    rows = documents.rows("docs/papers.md", "| loss | weight | why |")
    stated = {name.strip("`"): float(weight.strip("`")) for name, weight, _ in rows}
    assert stated == {k: v for k, v in DEFAULT_WEIGHTS.items() if k != "contrastive"}


def test_every_job_has_its_row_in_the_readme():
    jobs = {path.stem for path in repository.job_files()}
    rows = documents.rows("README.md", "| command | what it does |")
    assert {row[0].strip("`").removeprefix("limoe ") for row in rows} == jobs


def test_every_page_is_linked_from_the_readme():
    linked = {target.split("#")[0] for target in documents.links("README.md")}
    assert {page for page in PAGES if page != "README.md"} <= linked


def test_the_version_is_written_alike_everywhere():
    import limoe_tf

    setup = (ROOT / "setup.cfg").read_text("utf-8")
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert re.search(r"^version = (.+)$", setup, re.MULTILINE)[1] == limoe_tf.__version__
    assert newest[1] == limoe_tf.__version__


def test_what_is_wrong_is_found():
    """The checks themselves: each refuses a name that is not there."""
    assert not repository.path_exists("moe/assignment.py")
    assert not repository.path_exists("gin/runs/b17.gin")
    for name in ("assign.nothing", "limoe.Limoe.seats", "nowhere.at.all", "limoe.Limoe.call.more"):
        assert repository.is_dotted(name) and not repository.is_defined(name)
    for name in ("assign.assign", "limoe.Limoe.capacity_factor", "Router.call", "batches.crop"):
        assert repository.is_defined(name) == (name != "batches.crop")
    with pytest.raises(flags.Error):
        assert_module_takes("tpu_jobs.train", "--workdirs=a")
    with pytest.raises(flags.Error):
        assert_module_takes("tpu_jobs.describe", "--num_experts=many")
    with pytest.raises(SystemExit):
        assert_module_takes("benchmarks", "--only", "nothing")
    with pytest.raises(ValueError, match="A gin file or binding is wrong"):
        assert_gin_takes(["gin/runs/quickstart.gin"], ["limoe.Limoe.from_sizes.size = 1"])
    with pytest.raises(AssertionError):
        assert_gin_takes(["gin/runs/quickstart.gin"], ["STEP = 1"])
