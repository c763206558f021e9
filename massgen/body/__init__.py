"""The agent's hands, a process inside its container: JSON lines in, actions out. Stdlib only, Python >= 3.9.

Nothing on the host imports this; it is zipped (`massgen/agent/bodyzip.py`), mounted read-only and run as
`python3 -I -S body.zip`. It decides nothing and knows no model: it does what it is told, in order.
"""
