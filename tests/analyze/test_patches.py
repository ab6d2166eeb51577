"""The patches with the highest gates, and how they are shown."""

import numpy as np

from limoe_tf.analyze.patches import TopPatches, grid
from tests.shared.routed import routes


def test_the_patch_with_the_highest_gate_of_each_image_is_kept():
    # 4 x 4 pixels, patches of 2 x 2: patch p of image i has the value 10 i + p.
    images = np.arange(3)[:, None, None] * 10 + np.array([[0, 1], [2, 3]])
    images = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)
    images = np.repeat(images[..., np.newaxis], 3, axis=3).astype(np.uint8)
    kept = TopPatches(2, patch_size=2, count=2)
    kept.add(routes([[0, 0, 1, 1]] * 2, gate=[[0.3, 0.4, 0.9, 0.8], [0.6, 0.5, 0.7, 0.7]]), images)
    kept.add(routes([[1, 1, 1, 0]], gate=[[0.5, 0.5, 0.5, 0.5]]), images[2:])
    middles = [[int(one[1, 1, 0]) for one in kept.of(expert)] for expert in range(2)]
    # Gates 0.6 of image 1 and 0.5 of image 2; 0.9 of image 0 and 0.7, the first, of image 1.
    assert middles == [[10, 23], [2, 12]]


def test_a_patch_stands_amid_paler_surroundings():
    image = np.zeros([1, 4, 4, 3], np.uint8)
    kept = TopPatches(1, patch_size=2)
    kept.add(routes([[0, 0, 0, 0]], gate=[[0.2, 0.2, 0.2, 0.4]]), image)
    (picture,) = kept.of(0)
    # Around the last patch: inside black, to the left black made paler, to the right grey made so.
    assert picture[1:3, 1:3].max() == 0
    assert picture[1, 0].tolist() == [170] * 3 and picture[1, 3].tolist() == [212] * 3


def test_a_grid_has_pictures_in_rows_and_grey_between():
    black, white = np.zeros([2, 2, 3], np.uint8), np.full([2, 2, 3], 255, np.uint8)
    sheet = grid([black, white, black], columns=2)
    assert sheet.shape == (4 + 2 * 6, 4 + 2 * 6, 3)
    assert sheet[4:6, 4:6].max() == 0 and sheet[4:6, 10:12].min() == 255
    assert sheet[10:12, 4:6].max() == 0 and (sheet[10:12, 10:12] == 128).all()
    assert (sheet[:4] == 128).all() and (sheet[:, 6:10] == 128).all()
