"""vos_jax: video object and instance segmentation in JAX."""

__version__ = "0.1.0"
