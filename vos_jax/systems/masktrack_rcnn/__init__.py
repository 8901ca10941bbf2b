"""MaskTrack R-CNN (ICCV 2019)."""
