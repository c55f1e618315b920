"""Runs that can be resumed: what they depend on, how far they have come, which shard they take."""
