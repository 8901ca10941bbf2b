"""A page in the browser to draw masks and have them propagated."""
