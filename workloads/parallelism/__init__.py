"""How a layer is split over ranks, one parallelism a file, on top of the single-device pieces."""
