"""What one configured agent is on the host: transcript, strategy, prompts. Its hands are `massgen.body`, in its container."""
