"""Texts in: encoders, and an index that is given texts instead of vectors."""
