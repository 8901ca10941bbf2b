"""Boxes around masks, against looking for their pixels."""

import jax.numpy as jnp
import numpy as np

from vos_jax.ops.losses import box_costs
from vos_jax.ops.mask_boxes import boxes_around


def test_a_box_holds_all_pixels_of_its_mask_and_an_empty_one_none():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 4, 9, 12)) < 0.03
    masks[0, 0] = False
    masks[1, 1], masks[2, 2] = True, np.eye(9, 12)
    found = boxes_around(jnp.asarray(masks))
    assert found.dtype == jnp.float32 and found.shape == (3, 4, 4)
    for place in np.ndindex(3, 4):
        rows, columns = np.nonzero(masks[place])
        expected = [0, 0, 0, 0]
        if len(rows):
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found[place].tolist() == expected


def test_a_box_costs_the_mean_distance_of_its_numbers_from_every_other():
    boxes, truths = np.random.default_rng(1).random((2, 5, 3, 4)).astype(np.float32)
    found = box_costs(boxes, truths[:, :2])
    for place in np.ndindex(5, 3, 2):
        b, m, k = place
        np.testing.assert_allclose(
            found[place], np.abs(boxes[b, m] - truths[b, k]).mean(), rtol=1e-5
        )
