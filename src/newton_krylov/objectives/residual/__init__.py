"""Objectives that are half a sum of squares of residuals."""
