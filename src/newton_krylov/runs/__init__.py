"""One run and one sweep: from a composed configuration to a record."""
