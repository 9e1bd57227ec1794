"""What the parts of a step and of its memory are, for somebody who reads them for the first time."""

PARTS = {
    "forward": "kernels of the forward pass",
    "recompute": "forward kernels run again, to save memory",
    "backward": "kernels of the backward pass",
    "optimizer": "update of the weights",
    "interference": "computation slowed by communication beside it",
    "launch": "the GPU waits for the CPU to launch kernels",
    "exposed tp": "tensor-parallel communication that nothing hides",
    "exposed cp": "context-parallel communication that nothing hides",
    "exposed ep": "expert-parallel communication that nothing hides",
    "exposed pp": "messages between stages that nothing hides",
    "exposed dp": "data-parallel communication that nothing hides",
    "exposed offload": "copies to the host's memory and back that nothing hides",
    "bubble": "waiting for other pipeline stages",
    "host": "work of the CPU once a step",
}

MEMORY = {
    "weights": "parameters as the kernels use them",
    "gradients": "the buffer in which gradients add up",
    "optimizer": "master weights and moments",
    "activations": "kept from forward for backward",
    "temporaries": "of the layer or loss at work",
    "communication": "buckets and gathered layers",
    "lost": "taken by the allocator, not in use at the peak",
    "reserved": "driver and libraries",
}


def direction(name: str) -> str:
    """What communication of a dimension is called in full."""
    names = {"tp": "tensor", "cp": "context", "pp": "pipeline", "dp": "data", "ep": "expert"}
    return f"{names.get(name, name)}-parallel"
