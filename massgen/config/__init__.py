"""What the user asked for, checked and typed: the only place that reads config files, `.env` files and the environment."""
