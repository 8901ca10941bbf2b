"""The quick presets of systems, shrunk to runs of seconds: a config file for tests.

Its preset is the system's name. FEELVOS has a file of its own, tests/shrunk.py.
"""

from ml_collections import ConfigDict

from vos_jax.configs import cfbi, cfbi_plus, stm

CFBI = {"width": 0.1, "decoder_channels": 8, "head_width": 16, "groups": 2}
# what the presets have in common, what is small about each model, how its clips are cut
SYSTEMS = {
    "cfbi": (cfbi, {**CFBI, "embedding_dim": 8, "matching_dims": (8,)}, {"crop": (49, 49)}),
    "cfbi_plus": (cfbi_plus, {**CFBI, "matching_dims": (2, 4, 8)}, {"crop": (49, 49)}),
    "stm": (
        stm,
        {"width": 0.1, "decoder_channels": 8, "key_dim": 4, "value_dim": 8, "scale": 1.0},
        {"crop": (48, 48), "short_side": 0},
    ),
}


def get_config(system: str) -> ConfigDict:
    """Four steps, the last two with the system's own masks; then one clip to score.

    Most of the backbone is frozen, which spares compiling its gradient.
    """
    module, model, data = SYSTEMS[system]
    config = module.get_config("quick").copy_and_resolve_references()
    config.model.update(model)
    config.data.update({**data, "max_objects": 1})
    synthetic = {"kind": "synthetic", "videos": 3, "frames": 5}
    config.data.train = ConfigDict({"synthetic": {**synthetic, "split": "train"}})
    short = {"kind": "synthetic", "videos": 1, "frames": 4}
    config.data.eval = ConfigDict({"synthetic": {**short, "split": "test"}})
    if "pretrain" in config.data:
        config.data.pretrain.train = config.data.train.copy_and_resolve_references()
        config.data.pretrain.steps = 1
    config.train.update({"steps": 4, "batch": 1, "teacher_forcing_steps": 2, "save_steps": 0})
    config.optim.steps = 10
    config.optim.warmup_steps = 0
    config.optim.freeze = (r"backbone/(features_(\d|1[0-6])|layer\d_\d)/",)
    config.eval.floors = ("copy",)
    config.log.every = 1
    return config
