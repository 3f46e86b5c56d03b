"""What ends a trial, or the whole run."""

from __future__ import annotations


class BenchError(Exception):
    """A program failed, or bytes were wrong: why, in words for people."""
