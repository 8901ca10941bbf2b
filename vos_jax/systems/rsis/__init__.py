"""RIS (ECCV 2016) and RSIS (arXiv 1712.00617): objects of single images, one after the other."""

from vos_jax.systems.base import Part, System
from vos_jax.systems.rsis.model import RSIS
from vos_jax.systems.rsis.official import from_official
from vos_jax.systems.rsis.ris import RIS

_NO_MASKS = "it finds its objects itself, and none is given"
_VIEWS = "objects have no common order in several views of a frame"
_IMAGES = "it is scored by the objects of images, not by label maps of videos"
_SHARED = {
    "inference": ("threshold", "min_share", "size"),
    "parts": (Part("encode", "encoder"), Part("segment", "decoder")),
    "exempt": {
        "an_object_that_comes_later_is_segmented_as_in_the_rollout": _NO_MASKS,
        "a_memory_that_grows_changes_nothing_for_the_objects_in_it": _NO_MASKS,
        "padded_slots_change_nothing": _NO_MASKS,
        "ids_may_be_any_and_come_in_any_order": _NO_MASKS,
        "a_step_compiles_once_for_any_length_and_number_of_objects_in_a_bucket": _NO_MASKS,
        "views_of_a_mirrored_video_give_the_mirrored_results": _VIEWS,
        "a_run_trains_stops_goes_on_where_it_was_and_is_scored": _IMAGES,
    },
}
_TINY = {"backbone": "mobilenet_v2", "width": 0.1, "proposals": 2, "threshold": 0.0, "size": (0, 0)}
SYSTEM = System(
    model=RSIS,
    from_official=from_official,
    tiny={**_TINY, "features": 16},
    config="rvos.py:rsis",
    **_SHARED,
)
_LARGEST = "of its one small grid of states rounding makes other places the largest"
SYSTEM_RIS = System(
    model=RIS,
    tiny={**_TINY, "features": 8},
    config="rvos.py:ris",
    **_SHARED
    | {
        "exempt": {
            **_SHARED["exempt"],
            "bfloat16_gradients_point_where_float32_ones_do": _LARGEST,
        }
    },
)
