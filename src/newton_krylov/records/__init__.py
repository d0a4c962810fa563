"""What a run leaves on disk: its record, trace, checkpoint and spectrum."""
