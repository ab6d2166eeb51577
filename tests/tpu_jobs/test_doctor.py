import importlib
import json

import pytest
import sentencepiece

from tpu_jobs import doctor


def verdicts(findings):
    return [finding.verdict for finding in findings]


@pytest.mark.parametrize(
    "version, verdict",
    [((3, 9, 18), "wrong"), ((3, 10, 0), "ok"), ((3, 13, 0), "ok"), ((3, 14, 0), "wrong")],
)
def test_python_must_be_one_of_the_supported(version, verdict):
    (finding,) = doctor.check_python(version)
    assert finding.verdict == verdict


def test_two_owners_of_tensorflow_are_a_fault_and_both_are_removed():
    (finding,) = doctor.check_owners(["tensorflow", "tensorflow-tpu"])
    assert finding.verdict == "wrong"
    assert "uninstall -y tensorflow tensorflow-tpu" in finding.remedy
    assert '"tensorflow-tpu>=' in finding.remedy
    (finding,) = doctor.check_owners(["tensorflow", "tensorflow-cpu"])
    assert '"tensorflow>=' in finding.remedy


def test_one_owner_of_tensorflow_is_right_and_none_is_not():
    assert verdicts(doctor.check_owners(["tensorflow-tpu"])) == ["ok"]
    assert verdicts(doctor.check_owners([])) == ["wrong"]


def test_versions_outside_the_range_are_named_with_the_command_for_the_right_one():
    versions = {"keras": "2.15.0", "tensorflow": "2.20.0"}
    findings = doctor.check_versions(
        ["keras>=3.11,<3.16", "tensorflow>=2.20,<2.22", "tensorflow-text>=2.20"], versions.get
    )
    assert verdicts(findings) == ["wrong", "ok", "wrong"]
    assert "keras 2.15.0" in findings[0].text
    assert '"keras<3.16,>=3.11"' in findings[0].remedy
    # Its dependencies would bring a second TensorFlow to a TPU machine.
    assert "--no-deps" in findings[2].remedy


def test_the_versions_asked_for_are_those_of_setup_cfg():
    asked = doctor._requirements()
    assert "mesh-tensorflow==0.1.21" in asked
    assert any(line.startswith("tensorflow>=2.20") for line in asked)


def test_where_the_package_is_installed_the_versions_are_those_of_its_metadata(
    monkeypatch, tmp_path
):
    required = ["keras<3.16,>=3.11", "tensorflow<2.22,>=2.20", 'psutil; extra == "bench"']
    monkeypatch.setattr(doctor, "_SETUP", tmp_path / "setup.cfg")
    monkeypatch.setattr(doctor.metadata, "requires", {"limoe_tf": required}.get)
    monkeypatch.setattr(doctor, "_version_of", {"tensorflow-tpu": "2.20.0"}.get)
    assert doctor._requirements() == ["keras<3.16,>=3.11", "tensorflow-tpu<2.22,>=2.20"]


@pytest.mark.parametrize("tensorflow, text", [("2.20.0", "2.21.1"), ("2.21.0", "2.20.1")])
def test_tensorflow_text_must_be_of_the_version_of_tensorflow(tensorflow, text, monkeypatch):
    installed = {"tensorflow": tensorflow, "tensorflow-text": text}.get
    monkeypatch.setattr(doctor, "_version_of", installed)
    asked = [line for line in doctor._requirements() if line.startswith("tensorflow")]
    of_tensorflow, of_datasets, of_text = doctor.check_versions(asked, installed)
    assert of_tensorflow.verdict == "ok" and of_datasets.verdict == "wrong"
    assert of_text.text == f"tensorflow-text {text}; =={tensorflow[:4]}.* is needed"


def test_tensorflow_tpu_stands_in_for_tensorflow(monkeypatch):
    monkeypatch.setattr(doctor, "_version_of", {"tensorflow-tpu": "2.20.0"}.get)
    asked = doctor._requirements()
    assert any(line.startswith("tensorflow-tpu>=") for line in asked)
    assert not any(line.startswith("tensorflow>=") for line in asked)


@pytest.mark.parametrize(
    "variable, in_file, verdict, remedy",
    [
        (None, None, "ok", ""),
        ("tensorflow", "jax", "ok", ""),
        ("jax", None, "wrong", "unset KERAS_BACKEND"),
        (None, "torch", "wrong", "export KERAS_BACKEND=tensorflow"),
    ],
)
def test_keras_must_run_on_tensorflow(tmp_path, variable, in_file, verdict, remedy):
    if in_file:
        (tmp_path / "keras.json").write_text(json.dumps({"backend": in_file}))
    environment = {"KERAS_HOME": str(tmp_path)}
    if variable:
        environment["KERAS_BACKEND"] = variable
    (finding,) = doctor.check_backend(environment)
    assert (finding.verdict, finding.remedy) == (verdict, remedy)


def test_a_module_that_does_not_import_is_reported_with_its_reason_and_the_next_is_tried():
    def load(name):
        if name == "mesh_tensorflow":
            raise ImportError("cannot import name 'estimator'\nmore")

    findings = doctor.check_imports(["mesh_tensorflow", "numpy"], load)
    assert verdicts(findings) == ["wrong", "ok"]
    assert "(ImportError: cannot import name 'estimator')" in findings[0].text
    assert '--no-deps "mesh-tensorflow==0.1.21"' in findings[0].remedy


def test_part_of_this_package_that_does_not_import_is_fixed_by_installing_it():
    (finding,) = doctor.check_imports(["limoe_tf.no_such_part"])
    assert (finding.verdict, finding.remedy) == ("wrong", "python -m pip install -e .")


def test_a_local_gin_package_hides_gin_config(tmp_path, monkeypatch):
    assert verdicts(doctor._check_gin()) == ["ok"]
    (tmp_path / "gin").mkdir()
    (tmp_path / "gin" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(doctor.sys.modules, "gin", raising=False)
    importlib.invalidate_caches()
    (finding,) = doctor._check_gin()
    assert finding.verdict == "wrong"
    assert finding.remedy.startswith(f"mv {tmp_path}/gin/__init__.py")


def test_gin_config_that_is_absent_is_a_fault():
    # A folder called gin without Python in it imports too, but has no file.
    assert verdicts(doctor.check_gin(None, [])) == ["wrong"]
    assert verdicts(doctor.check_gin(None, ["/site-packages/gin/__init__.py"])) == ["wrong"]


def test_a_vocabulary_must_be_a_sentencepiece_model(tmp_path):
    path = tmp_path / "vocabulary.model"
    (finding,) = doctor.check_vocabulary(str(path))
    assert finding.verdict == "wrong"
    assert "tpu_jobs.build_vocabulary" in finding.remedy
    for content in (b"", b"not a model"):
        path.write_bytes(content)
        assert verdicts(doctor.check_vocabulary(str(path))) == ["wrong"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red circle", "a blue square above a green star"] * 20),
        model_prefix=str(tmp_path / "vocabulary"),
        vocab_size=24,
        minloglevel=2,
    )
    (finding,) = doctor.check_vocabulary(str(path))
    assert finding.verdict == "ok"
    assert "24 pieces" in finding.text


def test_no_accelerator_is_a_note_and_never_a_fault():
    cpu, gpu = ("CPU", "/device:CPU:0"), ("GPU", "/device:GPU:0")
    (finding,) = doctor.check_devices([cpu], has_nvidia=False)
    assert (finding.verdict, finding.remedy) == ("note", "")
    (finding,) = doctor.check_devices([cpu], has_nvidia=True)
    assert (finding.verdict, "and-cuda" in finding.remedy) == ("note", True)
    (finding,) = doctor.check_devices([cpu, gpu], has_nvidia=True)
    assert finding.verdict == "ok"
    assert gpu[1] in finding.text


def test_this_environment_is_found_ready_to_train(capsys):
    assert doctor.main([]) == 0
    printed = capsys.readouterr().out
    for name in ("Python", "tensorflow 2.2", "keras 3", "mesh_tensorflow imports", "devices"):
        assert name in printed
    assert printed.endswith("ready to train\n")


def test_a_fault_gives_code_1_and_its_remedy(capsys, tmp_path):
    assert doctor.main([f"--vocabulary={tmp_path}/none.model"]) == 1
    printed = capsys.readouterr().out
    assert "fix: python -m tpu_jobs.build_vocabulary" in printed
    assert "1 wrong: training would fail" in printed


def test_a_check_that_breaks_is_a_fault_and_the_others_still_run(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "check_owners", lambda owners: 1 / 0)
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "not checked (ZeroDivisionError" in printed
    assert "keras imports" in printed
