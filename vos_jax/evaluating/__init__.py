"""Pieces of vos_jax.evaluation: methods, the plan of who scores what, the walk, kept scores."""
