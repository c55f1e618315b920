"""Runs that can be taken up again: what they are, how far they have come, what part is ours."""
