"""What of the user's files agents see, and what of theirs comes back: withheld names, ignored build output."""
