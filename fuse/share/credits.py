"""Who may send next: the credits of an SMB connection as a weighted limiter, without I/O.

A server grants credits, a request costs one for each 64 KiB it moves, and a request beyond the
grant breaks the connection (MS-SMB2 3.3.5.2.3). Requests wait here for their turn. Metadata goes
first and may use everything; bulk transfers leave a reserve, so that a ``stat`` never waits for
megabytes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Ticket:
    """One request's claim on credits.

    Attributes:
        charge: Credits it costs.
        urgent: Whether it is metadata.
        admitted: Whether it may be sent.
    """

    charge: int
    urgent: bool
    admitted: bool = False


class CreditLimiter:
    """The credits of one connection.

    Args:
        available: What the server has granted so far.
        reserve: What bulk transfers leave for metadata.
    """

    def __init__(self, available: int, reserve: int) -> None:
        self.available = available
        self.reserve = reserve
        self.in_flight = 0
        self._urgent: deque[Ticket] = deque()
        self._bulk: deque[Ticket] = deque()

    @property
    def waiting(self) -> int:
        """Number of tickets not admitted yet."""
        return len(self._urgent) + len(self._bulk)

    def request(self, charge: int, *, urgent: bool) -> Ticket:
        """Queue a claim; it may be admitted at once."""
        ticket = Ticket(charge, urgent)
        (self._urgent if urgent else self._bulk).append(ticket)
        self._admit()
        return ticket

    def withdraw(self, ticket: Ticket) -> list[Ticket]:
        """Drop a claim whose request was not sent; returns who may go in its stead."""
        if ticket.admitted:
            ticket.admitted = False
            return self.settle(ticket.charge, ticket.charge)
        (self._urgent if ticket.urgent else self._bulk).remove(ticket)
        return self._admit()

    def settle(self, charge: int, granted: int) -> list[Ticket]:
        """An answer came: ``charge`` credits are spent, ``granted`` new ones are there.

        Returns:
            The tickets that may be sent now, in order.
        """
        self.in_flight -= charge
        self.available += granted
        return self._admit()

    def _admit(self) -> list[Ticket]:
        admitted: list[Ticket] = []
        for queue in (self._urgent, self._bulk):
            while queue and self._fits(queue[0]):
                ticket = queue.popleft()
                ticket.admitted = True
                self.available -= ticket.charge
                self.in_flight += ticket.charge
                admitted.append(ticket)
        return admitted

    def _fits(self, ticket: Ticket) -> bool:
        if ticket.urgent:
            return ticket.charge <= self.available
        if self._urgent:  # metadata that waits is not overtaken
            return False
        # A window too small to keep the reserve serves one bulk transfer at a time.
        reserve = self.reserve if self.in_flight else 0
        return ticket.charge + reserve <= self.available
