"""Training: one state, one step, one loop for every system; a system brings its objective."""
