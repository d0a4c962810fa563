"""Objectives: functions of one flat parameter vector. One a file; each registers itself."""
