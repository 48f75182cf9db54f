"""Crashes and failing disks."""
