"""Answers, votes, the final turn, and the one write."""
