"""`python -m massgen`."""

from massgen.cli.__main__ import main

main()
