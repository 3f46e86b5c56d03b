"""The offset ledger against a model of a far end that fails in every way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.supervisor.ledger import (
    CHUNK_BYTES,
    Cursor,
    Drain,
    ForeignContent,
    StreamLedger,
    Verdict,
    resume_offset,
)

sizes = st.integers(0, 1 << 24)


@given(far=sizes, spooled=sizes, confirmed=sizes, owned=st.booleans())
def test_a_longer_far_file_is_foreign(far, spooled, confirmed, owned):
    if far > spooled:
        with pytest.raises(ForeignContent):
            resume_offset(
                far=far, spooled=spooled, confirmed=confirmed, owned=owned, agreement=spooled
            )


@given(st.data())
def test_resume_never_overwrites_what_was_not_ours(data):
    spooled = data.draw(sizes)
    far = data.draw(st.integers(0, spooled))
    agreement = data.draw(st.integers(0, far))
    confirmed = data.draw(st.integers(0, spooled))
    owned = data.draw(st.booleans())
    try:
        offset = resume_offset(
            far=far, spooled=spooled, confirmed=confirmed, owned=owned, agreement=agreement
        )
    except ForeignContent:
        assert agreement < far
        assert not owned or agreement < confirmed
    else:
        assert 0 <= offset <= far
        assert agreement == far or (owned and offset == confirmed <= agreement)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("grow"), st.binary(min_size=1, max_size=40)),
            st.tuples(st.just("ship"), st.integers(0, 40)),
            st.tuples(st.just("tear"), st.integers(0, 40)),
            st.tuples(st.just("truncate"), st.integers(0, 40)),
            st.tuples(st.just("successor"), st.just(0)),
        ),
        max_size=60,
    )
)
def test_far_bytes_are_a_beginning_of_the_spool(steps):
    spool, far, cursor, now = b"", b"", Cursor(), 0.0

    def look():
        same = next(
            (i for i, (a, b) in enumerate(zip(far, spool, strict=False)) if a != b), len(far)
        )
        cursor.opened(far=len(far), spooled=len(spool), agreement=same)

    def ship(limit):
        nonlocal far
        if cursor.position is None or cursor.position != len(far):
            look()
        chunk = cursor.next_chunk(len(spool))
        if chunk:
            offset, length = chunk
            length = min(length, limit)
            far = far[:offset] + spool[offset : offset + length]
            cursor.wrote(length)
        cursor.synced()

    for what, argument in steps:
        now += 1.0
        if what == "grow":
            spool += argument
        elif what == "ship":
            ship(argument)
        elif what == "tear" and len(spool) > len(far) and cursor.owned:
            # a server crash: the length is there, the bytes are not, nothing was confirmed
            look()
            far += b"\0" * min(argument, len(spool) - len(far))
            cursor.failed(now)
        elif what == "truncate":
            far = far[:argument]
            cursor.failed(now)
        elif what == "successor":
            cursor = Cursor(confirmed=cursor.confirmed, owned=cursor.owned)
        assert cursor.confirmed <= len(spool)
    while far != spool:
        before = far
        ship(CHUNK_BYTES)
        assert far != before
    assert spool.startswith(far)


@given(st.integers(1, 40))
def test_backoff_grows_and_is_bounded(count):
    cursor, delays = Cursor(), []
    for _ in range(count):
        cursor.failed(100.0)
        delays.append(cursor.retry_at - 100.0)
    assert delays == sorted(delays)
    assert 0 < delays[0] <= delays[-1] <= 5.0
    cursor.hurry()
    assert cursor.retry_at == 0.0


@given(
    st.lists(st.tuples(st.floats(0.01, 5.0), st.integers(0, 100)), max_size=50),
    st.floats(0.1, 10.0),
)
def test_drain_ends(steps, timeout):
    ledger = StreamLedger("s", spooled=100)
    drain, now, most, since = Drain([ledger], timeout, 0.0), 0.0, 0, 0.0
    for pause, shipped in steps:
        now += pause
        ledger.shipped = shipped
        if shipped > most:
            most, since = shipped, now
        verdict = drain.decide(now, finishing=True)
        assert verdict is not Verdict.DONE
        assert (verdict is Verdict.SHORTFALL) == (now >= since + timeout)
        if verdict is Verdict.SHORTFALL:
            return
        assert drain.next_deadline() == since + timeout
    ledger.shipped, ledger.complete = 100, True
    assert drain.decide(now, finishing=False) is not Verdict.DONE
    assert drain.decide(now, finishing=True) is Verdict.DONE


def test_drain_does_not_wait_for_what_is_hopeless():
    ledgers = [StreamLedger("a", spooled=9, hopeless=True), StreamLedger("b", complete=True)]
    drain = Drain(ledgers, 60.0, 0.0)
    assert drain.decide(1.0, finishing=False) is Verdict.WAIT
    assert drain.decide(1.0, finishing=True) is Verdict.SHORTFALL


def test_drain_cap_holds_despite_progress():
    ledger = StreamLedger("a", spooled=9)
    drain = Drain([ledger], 60.0, 0.0)
    drain.cap(5.0)
    ledger.shipped = 3
    assert drain.decide(4.0, finishing=True) is Verdict.WAIT
    assert drain.next_deadline() == 5.0
    ledger.shipped = 4
    assert drain.decide(5.0, finishing=True) is Verdict.SHORTFALL
