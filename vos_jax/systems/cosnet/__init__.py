"""COSNet (CVPR 2019)."""

from vos_jax.systems.base import Part, System
from vos_jax.systems.cosnet.model import COSNet, products
from vos_jax.systems.cosnet.official import from_official

_NO_MASKS = "its one object is found without masks"
SYSTEM = System(
    model=COSNet,
    from_official=from_official,
    tiny={
        "backbone": "resnet18",
        "width": 0.125,
        "features": 8,
        "pyramid": 8,
        "num_references": 2,
        "selection": "past",
        "size": (0, 0),
    },
    inference=("num_references", "selection", "fusion", "legacy_double_softmax", "size"),
    parts=(
        Part("encode", "encoder"),
        Part("segment", "read", floor=products),
        Part("segment", "head"),
    ),
    measured={"selection": "past"},  # so that the memory holds all references ...
    warm_up=5,  # ... when a frame is measured
    exempt={
        name: _NO_MASKS
        for name in (
            "an_object_that_comes_later_is_segmented_as_in_the_rollout",
            "a_memory_that_grows_changes_nothing_for_the_objects_in_it",
            "padded_slots_change_nothing",
            "ids_may_be_any_and_come_in_any_order",
            "a_step_compiles_once_for_any_length_and_number_of_objects_in_a_bucket",
            "permuted_ids_give_the_same_losses_and_gradients",
        )
    },
)
