"""The last words of a failed command, fit to be shown to others."""

from collections.abc import Iterator, Sequence

QUOTE_BYTES = 2048
_MASK = b"***"


def _places(text: bytes, secret: bytes, *, cut: bool) -> Iterator[tuple[int, int]]:
    """Where `secret` stands in `text`, overlaps included; also its end, where the text begins."""
    at = text.find(secret)
    while at >= 0:
        yield at, at + len(secret)
        at = text.find(secret, at + 1)
    if cut:
        lengths = range(len(secret) - 1, 0, -1)
        longest = next((n for n in lengths if text.startswith(secret[-n:])), 0)
        if longest:
            yield 0, longest


def quote(tail: bytes, *, cut: bool, secrets: Sequence[str]) -> str:
    """Decode the end of `tail` with the secrets masked.

    Args:
        tail: The last bytes of a stream, at least `QUOTE_BYTES` and the longest secret if it had
            so many.
        cut: Whether there was more before it: then it may begin in the middle of a secret.
        secrets: Values to mask; one may hold or overlap another.
    """
    places = sorted(place for s in secrets for place in _places(tail, s.encode(), cut=cut))
    pieces: list[bytes] = []
    done = masked = 0
    for start, end in places:
        if start > masked or not pieces:
            pieces += [tail[done:start], _MASK]
        masked = done = max(masked, end)
    pieces.append(tail[done:])
    return b"".join(pieces)[-QUOTE_BYTES:].decode(errors="replace")
