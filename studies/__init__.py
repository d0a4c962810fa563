"""Studies made with the bench; not part of the installed package."""
