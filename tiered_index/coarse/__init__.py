"""The tier in memory: codes of prefixes, under one graph that serves every prefix dimension."""
