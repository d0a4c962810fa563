"""Python calls for what the commands do: `run`, `sweep`, `compare` and `verdict`."""
