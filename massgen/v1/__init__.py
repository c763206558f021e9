"""Where the first version had its command line: `python -m massgen.v1.cli` goes on working."""
