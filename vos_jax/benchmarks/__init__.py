"""What `python -m vos_jax.benchmark` measures, a file for each kind of work.

kernels: matching, memory read, convolution, resizing. matching: the matching of CFBI and CFBI+.
systems: one frame of a full-size system and its stages. metrics: scoring. These four make cases,
which `measuring` runs. stream: a long video through the streaming segmenter.

experiments: the commands train, scaling and sweep. training: a training step and what it holds.
scaling: the same on several meshes; collectives: what a compiled program sends. sweep: scores of
runs against a setting. plot: what the last two draw.
"""
