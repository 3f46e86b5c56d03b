"""Jobs: where their outputs go, their environment, their life cycle."""
