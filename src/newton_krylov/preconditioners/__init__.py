"""Preconditioners: one a file; each registers itself under the group `preconditioner`."""
