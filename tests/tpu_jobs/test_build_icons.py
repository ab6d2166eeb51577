import subprocess
import sys

import pytest
import tensorflow as tf

from limoe_tf.analyze import icon_gallery
from limoe_tf.data import icons
from tests.shared import icon_archive
from tests.shared.documents import ROOT
from tests.shared.icon_archive import icon_set, square
from tpu_jobs import build_icons

SETS = [
    icon_set(prefix, prefix, {f"{name}-{prefix}": square("red") for name in ("cup", "home")})
    for prefix in ("aaa", "bbb", "teenyicons")
]


@pytest.fixture
def folder(tmp_path):
    return icon_archive.write(tmp_path / "manual", SETS)


def test_the_job_builds_and_says_what_it_has_built(folder, tmp_path):
    command = [sys.executable, "-m", "tpu_jobs.build_icons", f"--manual_dir={folder}"]
    command += [f"--data_dir={tmp_path}", "--num_processes=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "icon_names: 6 icons of 3 sets" in lines
    assert lines[-1] == f"built {tmp_path / 'icon_names' / '1.0.0'}"


def test_what_is_built_is_not_built_again(folder, tmp_path, capsys):
    first = build_icons.build(str(folder), data_dir=str(tmp_path), num_processes=1)
    (folder / icons.ARCHIVE).unlink()
    again = build_icons.build(str(folder), data_dir=str(tmp_path))
    assert again.data_path == first.data_path
    assert "is there already" in capsys.readouterr().out


def test_a_missing_archive_and_a_missing_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`manual_dir` must hold iconify-json.*: `npm pack @icon"):
        build_icons.build(str(tmp_path), data_dir=str(tmp_path))
    monkeypatch.setattr(build_icons.icon_pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "limoe_tf\[icons\]"'):
        build_icons.build(str(tmp_path), data_dir=str(tmp_path))


def test_the_gallery_has_one_icon_of_each_set_that_may_be_shown(tmp_path):
    logos, owned = (icon_set(name, name, {"cup": square("red")}) for name in ("logos", "owned"))
    logos["info"]["category"] = "Logos"
    owned["info"]["license"] = {"title": "All rights reserved"}
    path = icon_archive.write(tmp_path / "manual", [*SETS, logos, owned]) / icons.ARCHIVE
    chosen = icon_gallery.some_icons(path, count=96)
    assert sorted(icon.prefix for icon in chosen) == ["aaa", "bbb", "teenyicons"]
    assert [icon.prefix for icon in icon_gallery.some_icons(path, count=2)] == [
        icon.prefix for icon in chosen[:2]
    ]
    picture = tf.io.decode_png(icon_gallery.gallery(path), channels=3)
    # 11 by 8.4 inches of 100 dots; the first icon is in the first of 12 by 8 cells.
    assert picture.shape == (840, 1100, 3)
    assert tf.reduce_any(tf.reduce_all(picture[:60, :90] == [255, 0, 0], axis=-1))
