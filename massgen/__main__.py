"""`python -m massgen`."""

from massgen.cli.main import main

main()
