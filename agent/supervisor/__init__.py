"""The per-job supervisor: standard library only, imports nothing else of `agent`."""
