"""The systems: what all of them share, and a folder for each.

table: SYSTEMS, the one place that lists them. base: what a system implements and declares. build:
from a config section to a module and its variables. views: one video in several views. label_logits
and frame_size: what several systems share. propagation: a floor that is run like a system. The
folder of a system holds its model, the parts of its network and its official names.
"""
