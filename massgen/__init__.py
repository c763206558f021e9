"""Several agents, each in its own locked container, work on one task, vote, and the winner alone may write."""
