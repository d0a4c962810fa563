"""Reads the records of runs and draws, tabulates and compares them. Never touches live objects."""
