"""The demo: real text that every machine with Python has, a model trained on it, and an index of it."""
