"""How a run looks: terminal lines, the closing summary, the readable run folder. Made from events, knowing nothing else."""
