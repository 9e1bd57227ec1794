"""What work costs, and how we know: cost models from ops and a device to seconds."""
