"""What happened in a run: types, the log, replay."""
