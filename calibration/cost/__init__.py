"""Cost models: ops and a device in, seconds and their spread out."""
