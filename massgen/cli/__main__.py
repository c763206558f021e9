"""`python -m massgen.cli`, as the documents of the peer write it."""

from massgen.cli.main import main

main()
