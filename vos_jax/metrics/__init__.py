"""Official measures of video object segmentation in numpy, and the floors every table prints."""
