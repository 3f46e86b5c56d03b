"""A file share over SMB 3.1.1 as a volume: ``ShareVolume.connect`` is the way in."""

from fuse.share.volume import ShareVolume

__all__ = ["ShareVolume"]
