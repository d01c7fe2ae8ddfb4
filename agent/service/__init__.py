"""Continuous running: when chaos may happen, how much of it, and everything that a team needs to leave it alone."""
