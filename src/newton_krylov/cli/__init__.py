"""The command line: Hydra composes a configuration, `runs` carries it out."""
