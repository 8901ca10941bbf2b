import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.image_bytes import grey_png
from tests.data.trees import SIZE, davis_tree, labels
from tests.inference.results import davis_results, filled, write_masks, youtube_results
from vos_jax.data.masks import davis_palette, write_mask
from vos_jax.inference.submission import expected_sequences, write_submission
from vos_jax.inference.verification import read_values

DAVIS, YOUTUBE = "davis2017-test-dev", "youtube-vos"


def refusal(data, pred, server=DAVIS) -> str:
    """What is said about the results; nothing may have been written."""
    out = pred.parent / "out" / "submission.zip"
    with pytest.raises(ValueError) as refused:
        write_submission(server, pred, out, expected_sequences(server, data))
    assert list(out.parent.iterdir()) == []
    return str(refused.value)


def has(message, *parts) -> bool:
    """Whether one line of the message matches the parts in this order."""
    return any(re.search(".*".join(parts), line) for line in message.splitlines())


def test_missing_sequence_is_refused(tmp_path):
    data, pred = davis_results(tmp_path)
    shutil.rmtree(pred / "dog")
    message = refusal(data, pred)
    assert message.startswith(f"{pred} is not ready: 1 problem in 1 folder (2 sequences expected)")
    assert has(message, "missing sequence: ", "pred/dog", "expected 5 masks", "segment it too")


def test_sequence_of_another_split_is_refused(tmp_path):
    data, pred = davis_results(tmp_path)
    write_masks(pred / "cat", {0: labels(0)})
    message = refusal(data, pred)
    assert has(message, "extra sequence: ", "pred/cat", "2 sequences", "the right --benchmark")


def test_folder_around_the_sequences_is_named(tmp_path):
    data, pred = davis_results(tmp_path)
    (pred / "masks").mkdir()
    for name in ("bear", "dog"):
        (pred / name).rename(pred / "masks" / name)
    message = refusal(data, pred)
    assert has(message, "pred/bear: no such folder", "are the results in .*pred/masks")
    assert has(message, "extra sequence", "the folder that holds the sequences itself")


def test_missing_frame_is_refused_also_at_the_end(tmp_path):
    data, pred = davis_results(tmp_path)
    (pred / "bear/00004.png").rename(pred / "bear/00004.jpg")
    message = refusal(data, pred)
    assert has(message, "missing frames: ", "pred/bear", r"expected 5 masks 00000\.png \.\. 00004")
    assert has(message, "1 of them missing: 00004", r"also holds 1 \.jpg", r"end in \.png")


def test_extra_frame_of_davis_is_refused(tmp_path):
    data, pred = davis_results(tmp_path)
    write_masks(pred / "bear", {5: labels(5)})
    assert has(refusal(data, pred), "extra frames: ", "pred/bear", "1 others: 00005", "remove them")


@pytest.mark.parametrize(
    ("rename", "fix"),
    [
        (lambda t: f"{t + 1:05d}", r"missing: 00000.*others: 00005.*numbers are off by \+1"),
        (lambda t: f"{t}", "00000, 00001, 00002 and 2 more.*the numbers are right but written"),
        (lambda t: f"{t:05d}" if t else "first", "others: first; name every mask as its frame"),
    ],
)
def test_wrong_frame_names_are_recognised(tmp_path, rename, fix):
    data, pred = davis_results(tmp_path)
    for t in reversed(range(5)):
        (pred / f"dog/{t:05d}.png").rename(pred / f"dog/{rename(t)}.png")
    assert has(refusal(data, pred), "wrong names: ", "pred/dog", fix)


def test_youtube_masks_numbered_one_by_one_are_refused_not_dropped(tmp_path):
    data, pred = youtube_results(tmp_path)
    for t in (5, 10):
        (pred / f"0a1b/{t:05d}.png").rename(pred / f"0a1b/{t // 5:05d}.png")
    message = refusal(data, pred, YOUTUBE)
    assert has(message, "wrong names: ", "2 of them missing: 00005, 00010", "others: 00001, 00002")


def test_missing_listed_frame_of_youtube_is_refused_whatever_else_is_there(tmp_path):
    data, pred = youtube_results(tmp_path)
    write_masks(pred / "0a1b", {t: labels(1, (2,)) for t in range(5)})
    (pred / "0a1b/00005.png").unlink()
    message = refusal(data, pred, YOUTUBE)
    assert has(message, "missing frames: ", "expected 3 masks", "1 of them missing: 00005;")


def test_mask_of_another_size_is_refused(tmp_path):
    data, pred = davis_results(tmp_path)
    write_mask(pred / "dog/00002.png", labels(2, size=(24, 32)))
    message = refusal(data, pred)
    assert has(message, "wrong size: ", r"dog/00002\.png: expected 48x64", "found 24x32", "write")


def test_colour_image_is_refused_even_in_davis_colours(tmp_path):
    data, pred = davis_results(tmp_path)
    Image.fromarray(davis_palette()[labels(1)]).save(pred / "bear/00001.png")
    message = refusal(data, pred)
    assert has(message, r"bear/00001\.png: expected a palette or grey PNG, found a PNG of mode RGB")
    assert has(message, "not a palette or grey PNG: ", "save the mask as palette PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
        (None, "cut off"),
    ],
)
def test_unreadable_mask_is_refused(tmp_path, content, reason):
    data, pred = davis_results(tmp_path)
    file = pred / "bear/00001.png"
    file.write_bytes(file.read_bytes()[:-60] if content is None else content)
    assert has(refusal(data, pred), rf"bear/00001\.png: {reason}")


def test_jpeg_behind_a_png_name_is_refused(tmp_path):
    data, pred = davis_results(tmp_path)
    Image.fromarray(labels(1)).save(pred / "bear/00001.png", "JPEG")
    assert has(refusal(data, pred), r"bear/00001\.png: expected a palette.*found a JPEG of mode L")


def test_unknown_ids_are_refused_with_their_pixels(tmp_path):
    data, pred = davis_results(tmp_path)
    write_mask(pred / "bear/00003.png", filled(1, 3, 9))
    message = refusal(data, pred)
    found = r"expected ids out of \[0, 1, 2\], found also 3 \(64 pixels\), 9 \(64 pixels\)"
    assert has(message, "unknown ids: ", r"bear/00003\.png", found, "keep the ids of the given")


def test_black_and_white_mask_is_refused_as_void(tmp_path):
    data, pred = davis_results(tmp_path)
    cv2.imwrite(str(pred / "bear/00003.png"), filled(255))
    assert has(refusal(data, pred), r"found also 255 \(64 pixels\); 255 is void", "objects as thei")


def test_anti_aliased_mask_is_refused(tmp_path):
    data, pred = davis_results(tmp_path)
    smooth = cv2.resize(100 * labels(2, size=(24, 32)), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(pred / "dog/00002.png"), smooth)
    message = refusal(data, pred)
    assert has(message, "anti-aliased: ", r"dog/00002\.png", "other values", "nearest neighbour")


def test_many_tiny_objects_of_the_sequence_are_fine(tmp_path):
    ids = tuple(range(1, 13))
    data = davis_tree(tmp_path / "data", names=("bear",), split="test-dev", ids=ids, masks=1)
    tiny = np.zeros(SIZE, np.uint8)
    tiny[0, :12] = ids
    write_masks(tmp_path / "pred/bear", dict.fromkeys(range(5), tiny))
    expected = expected_sequences(DAVIS, data)
    write_submission(DAVIS, tmp_path / "pred", tmp_path / "a.zip", expected)


def test_object_before_its_first_frame_is_refused(tmp_path):
    data, pred = youtube_results(tmp_path)
    write_mask(pred / "0a1b/00000.png", filled(2, 7))
    message = refusal(data, pred, YOUTUBE)
    assert has(message, r"object too early: .*0a1b/00000\.png: object 7 is first given in frame 00")
    assert has(message, "frame 00005, expected no pixel of it before, found 64; write background")


def test_all_problems_are_collected_and_repeats_counted(tmp_path):
    data, pred = davis_results(tmp_path)
    for t in range(5):
        write_mask(pred / f"bear/{t:05d}.png", filled(3))
    write_mask(pred / "dog/00000.png", filled(3, size=(24, 32)))
    (pred / "dog/00001.png").unlink()
    message = refusal(data, pred)
    assert "8 problems in 2 folders" in message.splitlines()[0]
    assert message.count("  unknown ids: ") == 5 and has(message, "unknown ids: and 2 more")
    assert has(message, "^dog: 3 problems") and has(message, "  wrong size: .*dog/00000")


def test_every_folder_with_a_problem_is_named_however_many(tmp_path):
    names = [f"s{n:02d}" for n in range(14)]
    data = davis_tree(tmp_path / "data", names=names, length=1, split="test-dev")
    (tmp_path / "pred").mkdir()
    message = refusal(data, tmp_path / "pred")
    assert has(message, "14 problems in 14 folders") and has(message, "^s09: 1 problem$")
    assert message.endswith(r"and in 4 more folders: s10 (1), s11 (1), s12 (1), s13 (1)")


def test_missing_folder_of_results_is_named(tmp_path):
    data, _ = davis_results(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder of results \(--pred\)"):
        expected = expected_sequences(DAVIS, data)
        write_submission(DAVIS, tmp_path / "nowhere", tmp_path / "a.zip", expected)


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_grey_masks_of_any_depth_are_read_as_ids(tmp_path, bits):
    mask = filled(1, 0, 1)
    pixels = {1: mask.astype(bool), 8: mask, 16: mask.astype(np.uint16)}[bits]
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    values, why = read_values(tmp_path / "grey.png")
    assert (values == mask).all() and why == "grey"


def test_palette_shorter_than_256_colours_is_right_while_its_colours_are(tmp_path):
    image = Image.fromarray(filled(1, 2))
    image.putpalette(davis_palette()[:4].tobytes())
    image.save(tmp_path / "small.png", bits=2)
    values, why = read_values(tmp_path / "small.png")
    assert (values == filled(1, 2)).all() and why is None
    image.putpalette((davis_palette()[:4] // 3).tobytes())
    image.save(tmp_path / "small.png", bits=2)
    assert read_values(tmp_path / "small.png")[1] == "other colours"


def test_palette_with_the_colours_of_other_ids_is_refused(tmp_path):
    image = Image.fromarray(filled(1, 2))
    image.putpalette(davis_palette()[[0, 2, 1]].tobytes())
    image.save(tmp_path / "sorted.png")
    with pytest.raises(ValueError, match="index 1 has the DAVIS colour of id 2"):
        read_values(tmp_path / "sorted.png")


def test_grey_of_two_bits_holds_its_values(tmp_path):
    (tmp_path / "grey.png").write_bytes(grey_png(filled(1, 3), bits=2))
    values, why = read_values(tmp_path / "grey.png")
    assert (values == filled(1, 3)).all() and why == "grey"


def test_palette_of_the_data_sets_own_files_is_right(tmp_path):
    image = Image.fromarray(filled(1, 9))
    own = [[0, 0, 0]] * 256
    own[:10] = davis_palette()[:9].tolist() + [[191, 0, 0]]
    own[10:22] = [[191 if c == 192 else c for c in row] for row in davis_palette()[10:22].tolist()]
    own[22:] = [[grey] * 3 for grey in range(22, 256)]
    image.putpalette(sum(own, []))
    image.save(tmp_path / "own.png")
    assert read_values(tmp_path / "own.png")[1] is None
    own[1] = [129, 0, 0]
    image.putpalette(sum(own, []))
    image.save(tmp_path / "own.png")
    assert read_values(tmp_path / "own.png")[1] == "other colours"
