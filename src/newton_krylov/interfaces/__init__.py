"""The library's faces: a torch optimizer, a scikit-learn estimator, curvature of any module."""
