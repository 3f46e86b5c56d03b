"""What goes wrong with local storage."""

from agent.errors import BatchError


class DevStorageError(BatchError):
    """Local storage could not be started, stopped or found."""
