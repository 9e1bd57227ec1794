"""What a machine is: devices, links, nodes and clusters. Facts; no work, no time."""
