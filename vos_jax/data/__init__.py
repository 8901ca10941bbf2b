"""Annotated videos: where they come from, how training examples are drawn from them."""
