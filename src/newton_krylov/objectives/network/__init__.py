"""A network's loss as an objective of its flat weights, and the curvature operators on it."""
