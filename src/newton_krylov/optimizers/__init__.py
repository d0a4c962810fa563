"""Optimizers and their parts. One a file; each registers itself."""
