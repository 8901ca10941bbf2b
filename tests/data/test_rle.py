"""Run lengths: what goes in comes out, and what is damaged never reaches pycocotools."""

import numpy as np
import pytest

from vos_jax.data.rle import (
    areas,
    boxes,
    decode,
    encode,
    from_segmentation,
    from_segmentations,
    run_lengths,
)


def masks(rng, count, height, width):
    return rng.random((count, height, width)) < rng.random((count, 1, 1))


def counted(mask):
    """Runs of 0 and 1 down the columns, by numpy alone."""
    pixels = np.concatenate([[False], mask.T.ravel()])
    borders = np.flatnonzero(np.diff(pixels.astype(int)))
    return np.diff(np.concatenate([[0], borders, [mask.size]]))


def test_every_form_of_a_mask_is_the_same_mask():
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(1, 40, 2)
        for mask in masks(rng, 3, height, width):
            (rle,) = encode(mask[None])
            assert (decode([rle], mask.shape)[0] == mask).all()
            np.testing.assert_array_equal(run_lengths([rle["counts"]], [""])[0], counted(mask))
            plain = {"size": [height, width], "counts": counted(mask).tolist()}
            assert from_segmentation(plain, mask.shape, "") == rle
            assert from_segmentation(rle, mask.shape, "") == rle
            assert areas([rle, None]).tolist() == [mask.sum(), 0]


def test_a_run_of_many_pixels_has_several_characters():
    mask = np.zeros((1, 2000, 3000), bool)
    mask[0, 5:, 1:2999] = True
    np.testing.assert_array_equal(
        run_lengths([encode(mask)[0]["counts"]], [""])[0], counted(mask[0])
    )


def test_texts_are_read_together_as_each_alone():
    rng = np.random.default_rng(1)
    rles = encode(masks(rng, 20, 17, 23))
    texts = [rle["counts"] for rle in rles]
    runs, starts = run_lengths(texts, texts)
    for one, text in zip(np.split(runs, starts[1:]), texts, strict=True):
        np.testing.assert_array_equal(one, run_lengths([text], [""])[0])
    broken = [*rles, {"size": [17, 23], "counts": "5"}, None]
    with pytest.raises(ValueError, match="mask 20: .*sum up to 17 x 23"):
        from_segmentations(broken, (17, 23), [f"mask {n}" for n in range(22)])


def test_boxes_are_the_continuous_corners_around_the_pixels():
    mask = np.zeros((3, 6, 9), bool)
    mask[0, 2, 3] = mask[1, 1:4, 2:8] = True
    assert boxes([*encode(mask), None]).tolist() == [
        [3, 2, 4, 3],
        [2, 1, 8, 4],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_no_masks_are_no_rles():
    assert encode(np.zeros((0, 4, 5), bool)) == [] and decode([], (4, 5)).shape == (0, 4, 5)
    assert decode([None], (4, 5)).shape == (1, 4, 5) and boxes([]).shape == (0, 4)


def test_polygons_are_united_and_filled():
    square, right = [1, 1, 4, 1, 4, 4, 1, 4], [6, 1, 8, 1, 8, 3, 6, 3]
    (found,) = decode([from_segmentation([square, right], (6, 9), "")], (6, 9))
    expected = np.zeros((6, 9), bool)
    expected[1:4, 1:4] = expected[1:3, 6:8] = True
    assert (found == expected).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 5], "counts": "P"}, "cut off or damaged"),
        ({"size": [4, 5], "counts": ""}, "cut off or damaged"),
        ({"size": [4, 5], "counts": "PPPPPPP1"}, "more than 6 characters"),
        ({"size": [4, 5], "counts": "9 2"}, "cut off or damaged"),
        ({"size": [4, 5], "counts": "9é2"}, "cut off or damaged"),
        ({"size": [4, 5], "counts": "92"}, "sum up to 4 x 5 pixels, they give 11"),
        ({"size": [4, 5], "counts": [9, 2, -1, 10]}, "whole numbers from 0"),
        ({"size": [4, 5], "counts": [9, 2.5, 8.5]}, "whole numbers from 0"),
        ({"size": [4, 5], "counts": []}, "they give 0"),
        ({"size": [5, 4], "counts": [20]}, r"of size \[5, 4\].*its frame \[4, 5\]"),
        ({"counts": [20]}, "size and counts"),
        ([], "empty list"),
        ([[1, 1, 2, 2]], "three corners"),
        ([[1, 1, 2, 2, 3, float("nan")]], "three corners"),
        ([["a"] * 6], "three corners"),
        ([[1, 1, 1e9, 1, 1, 1]], "in or near its image"),
        ("text", "expected null, polygons or run lengths"),
    ],
)
def test_what_is_damaged_is_refused_by_name(segmentation, message):
    with pytest.raises(ValueError, match=f"file.json, video 3: .*{message}"):
        from_segmentation(segmentation, (4, 5), "file.json, video 3")


def test_no_text_is_let_through_that_is_not_a_mask():
    rng = np.random.default_rng(2)
    passed = 0
    for rle in encode(masks(rng, 400, 9, 11)):
        text = list(rle["counts"])
        for _ in range(rng.integers(1, 3)):
            place = rng.integers(len(text))
            text[place] = chr(rng.integers(40, 120))
        text = "".join(text)[: rng.integers(len(text) - 1, len(text) + 1)]
        changed = {"size": [9, 11], "counts": text}
        try:
            from_segmentation(changed, (9, 11), "")
        except ValueError:
            continue
        passed += 1
        pixels = decode([changed], (9, 11))[0]
        assert pixels.sum() == areas([changed])[0]
        np.testing.assert_array_equal(decode(encode(pixels[None]), (9, 11))[0], pixels)
    assert passed < 100  # few changes leave the sum of the runs as it was
