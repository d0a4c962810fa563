"""The version of the package, in a file of its own: the commands read nothing else for it."""

__version__ = "0.1.0"
