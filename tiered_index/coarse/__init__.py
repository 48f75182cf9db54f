"""The tier in memory: bf16 codes of prefixes, under one graph that serves every prefix dimension."""
