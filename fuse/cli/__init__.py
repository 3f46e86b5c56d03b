"""The command ``batchai-mount``: volumes mounted by hand, by mount(8) and from fstab."""
