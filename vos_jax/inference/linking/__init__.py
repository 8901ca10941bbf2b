"""Linkers: which detection of one frame is the same object as which of another."""
