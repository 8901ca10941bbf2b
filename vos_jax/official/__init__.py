"""Official checkpoints: reading the files, and official parameter names -> our variables."""
