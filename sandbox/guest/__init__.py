"""The program that runs as PID 1 of every container (standard library only, Python 3.9 and newer).

main.py     become PID 1: harden, then serve
world.py    what only PID 1 may and must do: reap, sweep, stop everything
serve.py    the one loop: frames in, pipes, children, frames out
command.py  one spawned program
birth.py    how a program is started
task.py     one file operation on a thread of its own
files.py    list, read, mark, pack, apply
commit.py   the transaction of a lease
"""
