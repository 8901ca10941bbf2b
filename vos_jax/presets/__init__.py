"""What several files of configs/ have in common."""
