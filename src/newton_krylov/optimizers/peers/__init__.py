"""Other libraries' optimizers, for comparison. One library a file; each registers itself."""
