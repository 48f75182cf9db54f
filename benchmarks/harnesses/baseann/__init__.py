"""For ann-benchmarks and VIBE, which share the interface ``BaseANN``."""
