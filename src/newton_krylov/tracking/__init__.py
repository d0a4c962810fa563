"""Where runs are tracked. One tracker a file; each registers itself."""
