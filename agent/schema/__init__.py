"""Batch AI resources as users write them: parsed, checked, and given back without their secrets."""

from agent.schema.cluster import parse_cluster
from agent.schema.job import InputDirectory, JobSpec, OutputDirectory, Secret
from agent.schema.mounts import AzureBlobFileSystem, AzureFileShare, Credentials, MountVolumes
from agent.schema.parse import parse_job
from agent.schema.redact import redacted

__all__ = [
    "AzureBlobFileSystem",
    "AzureFileShare",
    "Credentials",
    "InputDirectory",
    "JobSpec",
    "MountVolumes",
    "OutputDirectory",
    "Secret",
    "parse_cluster",
    "parse_job",
    "redacted",
]
