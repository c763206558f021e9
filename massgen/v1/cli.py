"""`python -m massgen.v1.cli "question" --models A B`: the command, under the name that older documents give it."""

from massgen.cli.__main__ import main

main()
