"""Temporal stability T of DAVIS 2016, and the outlines it is measured on."""
