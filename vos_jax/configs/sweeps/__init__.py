"""The files of configs/sweeps/ as vos_jax.configs.sweeps.NAME; see vos_jax/configs."""
