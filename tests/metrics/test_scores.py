import numpy as np
import pytest

from tests.metrics.objects import scored
from vos_jax.metrics.protocols import PROTOCOLS, get_protocol
from vos_jax.metrics.scores import dataset_metrics, sequence_metrics

OBJECTS = [
    scored("a", 1, [1.0, 0.8], [0.6, 0.6], category="dog"),
    scored("a", 7, [0.0, 0.2], [0.2, 0.2], category="cat"),
    scored("b", 1, [0.6], [0.4], category="dog"),
]


def test_every_object_counts_once():
    found = dataset_metrics(OBJECTS)
    assert found["J-Mean"] == pytest.approx((0.9 + 0.1 + 0.6) / 3)
    assert found["F-Mean"] == pytest.approx((0.6 + 0.2 + 0.4) / 3)
    assert found["J&F-Mean"] == pytest.approx((found["J-Mean"] + found["F-Mean"]) / 2)
    assert sequence_metrics(OBJECTS)["a"]["J-Mean"] == pytest.approx(0.5)


def test_every_frame_counts_once_when_frames_are_averaged():
    found = dataset_metrics(OBJECTS, "frames")
    assert found["J-Mean"] == pytest.approx((1.0 + 0.8 + 0.0 + 0.2 + 0.6) / 5)
    assert found["J-Recall"] == pytest.approx(3 / 5)
    assert "J-Decay" not in found


def test_every_category_counts_once_when_categories_are_averaged():
    found = dataset_metrics(OBJECTS, "categories")
    assert found["J-Mean"] == pytest.approx(((0.9 + 0.6) / 2 + 0.1) / 2)
    nameless = [scored("a", 1, [1.0])]
    with pytest.raises(ValueError, match="object a_1 has no category"):
        dataset_metrics(nameless, "categories")


def test_youtube_vos_averages_seen_and_unseen_objects_apart():
    found = get_protocol("youtube-vos", seen=["dog"]).metrics(OBJECTS)
    parts = {"J_s": 0.75, "J_u": 0.1, "F_s": 0.5, "F_u": 0.2}
    assert {name: found[name] for name in parts} == pytest.approx(parts)
    assert found["G"] == pytest.approx(np.mean(list(parts.values())))
    assert found["J-Mean"] == pytest.approx((0.9 + 0.1 + 0.6) / 3)


def test_without_unseen_objects_there_is_no_overall_score():
    found = get_protocol("youtube-vos", seen=["dog", "cat"]).metrics(OBJECTS)
    assert found["J_s"] == found["J-Mean"]
    assert np.isnan(found["J_u"]) and np.isnan(found["G"])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_metrics_come_under_the_announced_names(name):
    protocol = PROTOCOLS[name]
    objects = [
        scored("a", 1, [0.5], [0.5] if "F" in protocol.measures else None, category="dog"),
    ]
    objects[0].values.update({m: np.array([3.0]) for m in protocol.measures if m in "TE"})
    assert tuple(protocol.metrics(objects)) == protocol.metric_names


def test_nothing_to_average_is_refused():
    with pytest.raises(ValueError, match="no object has a scored frame"):
        dataset_metrics([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "davis"}, "unknown protocol 'davis', expected one of davis2016, davis2017"),
        ({"name": "davis2017", "average": "frames"}, "davis2017 can average over no other"),
        ({"name": "fbms", "average": "sequences"}, "fbms can average over frames, not sequences"),
        ({"name": "davis2017", "temporal": "all"}, "T is a measure of davis2016, not of davis2017"),
        ({"name": "davis2016", "temporal": "yes"}, "temporal: expected one of"),
        ({"name": "fbms", "seen": ["dog"]}, "seen categories belong to youtube-vos"),
    ],
)
def test_options_that_do_not_go_with_a_protocol_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_protocol(**options)
