import tensorflow as tf

from benchmarks import scenes


def test_the_sheet_is_a_small_picture(tmp_path):
    scenes.draw_sheet(tmp_path / "sheet.png", first=48)
    encoded = (tmp_path / "sheet.png").read_bytes()
    assert tf.io.decode_png(encoded).shape == (740, 900, 4) and len(encoded) < 150_000


def test_a_scene_costs_time_and_bytes():
    found = scenes.measure(20)
    # An image and three captions: less than half of 64 x 64 x 3 bytes.
    assert found["milliseconds"] > 0 and 500 < found["bytes"] < 64 * 64 * 3 / 2
