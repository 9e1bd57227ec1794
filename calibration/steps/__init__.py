"""Real training steps, measured with TorchTitan: cases in, rows of the step-time table out."""
