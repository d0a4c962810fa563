"""Curvature models: what stands for the Hessian. One a file; each registers itself."""
