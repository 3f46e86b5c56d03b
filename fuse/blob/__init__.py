"""Azure Blob containers as volumes."""
