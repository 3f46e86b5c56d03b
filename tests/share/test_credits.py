"""The credit limiter: never more in flight than granted, nobody forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.share.credits import CreditLimiter


def test_metadata_does_not_wait_for_bulk():
    limiter = CreditLimiter(64, reserve=16)
    bulk = [limiter.request(16, urgent=False) for _ in range(5)]
    assert [ticket.admitted for ticket in bulk] == [True, True, True, False, False]
    assert limiter.request(1, urgent=True).admitted
    assert limiter.settle(16, 16) == []  # the reserve comes first
    assert limiter.settle(1, 1) == [bulk[3]]


def test_a_small_window_serves_one_transfer_at_a_time():
    limiter = CreditLimiter(16, reserve=16)
    first, second = (limiter.request(16, urgent=False) for _ in range(2))
    assert first.admitted
    assert not second.admitted
    assert limiter.settle(16, 16) == [second]


def test_a_claim_given_up_makes_room():
    limiter = CreditLimiter(4, reserve=0)
    first = limiter.request(4, urgent=True)
    second, third = limiter.request(4, urgent=True), limiter.request(2, urgent=True)
    assert limiter.withdraw(second) == []
    assert limiter.withdraw(first) == [third]
    assert limiter.in_flight == 2


def test_grants_beyond_the_charge_widen_the_window():
    limiter = CreditLimiter(1, reserve=0)
    limiter.request(1, urgent=True)
    waiting = limiter.request(8, urgent=False)
    assert limiter.settle(1, 512) == [waiting]
    assert limiter.available == 504


@given(
    window=st.integers(16, 512),
    reserve=st.integers(0, 32),
    steps=st.lists(st.tuples(st.integers(1, 16), st.booleans(), st.booleans()), max_size=200),
    data=st.data(),
)
def test_never_overdrawn_and_all_served(window, reserve, steps, data):
    limiter = CreditLimiter(window, reserve)
    tickets, settled = [], set()

    def finish_one():
        running = [t for t in tickets if t.admitted and t not in settled]
        if running:
            ticket = data.draw(st.sampled_from(running))
            settled.add(ticket)
            limiter.settle(ticket.charge, ticket.charge)

    for charge, urgent, finish in steps:
        tickets.append(limiter.request(charge, urgent=urgent))
        running = sum(t.charge for t in tickets if t.admitted and t not in settled)
        assert running == limiter.in_flight
        assert limiter.available >= 0
        assert limiter.available + limiter.in_flight == window
        if finish:
            finish_one()
    for _ in tickets:
        finish_one()
    assert limiter.waiting == 0
    assert settled == set(tickets)
    assert limiter.available == window


@given(st.lists(st.booleans(), max_size=50))
def test_each_class_is_served_in_order(kinds):
    limiter = CreditLimiter(4, reserve=0)
    blocker = limiter.request(4, urgent=True)
    queued = [limiter.request(1, urgent=urgent) for urgent in kinds]
    admitted = limiter.settle(blocker.charge, 4)
    while limiter.waiting:
        admitted += limiter.settle(1, 1)
    assert admitted == [t for t in queued if t.urgent] + [t for t in queued if not t.urgent]


def test_unknown_claims_cannot_be_withdrawn():
    limiter = CreditLimiter(0, reserve=0)
    ticket = limiter.request(1, urgent=True)
    limiter.withdraw(ticket)
    with pytest.raises(ValueError, match="not in deque"):
        limiter.withdraw(ticket)
