"""What labelling tools write, as label maps: frames with shapes, and a reader for each tool."""
