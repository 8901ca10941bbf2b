"""vos_jax: video object and instance segmentation in JAX."""

import os

__version__ = "0.1.0"

# TensorFlow only runs tf.data here; its start-up notices would bury our own messages.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
