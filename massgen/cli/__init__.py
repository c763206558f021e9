"""The command line: one command per file, loaded only when it is the one that was typed."""
