"""The Batch AI node agent: daemon, job life cycle, supervisor and command line."""
