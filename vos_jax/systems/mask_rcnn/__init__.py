"""Mask R-CNN (ICCV 2017)."""
