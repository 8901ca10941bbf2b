"""Flax Linen layers and backbones that several systems share."""
