"""Local storage for development, demo and tests: Azurite for blobs, Samba for file shares."""
