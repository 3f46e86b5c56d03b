"""Volumes that the agent keeps mounted: one driver process each."""
