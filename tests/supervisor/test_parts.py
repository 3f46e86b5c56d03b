"""The parts that need no supervisor process."""

import errno
import json
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.supervisor import processes, spool, status
from agent.supervisor.control import answer
from agent.supervisor.ladder import Ladder
from agent.supervisor.processes import Process, descendants, parse_stat
from agent.supervisor.quote import quote
from agent.supervisor.spec import SpecError, parse_spec


def document(**changes):
    base = {
        "version": 1,
        "jobId": "j",
        "stateDir": "/s",
        "socket": "/run/x.sock",
        "phases": [{"name": "job", "command": "true", "stdout": "o", "stderr": "e"}],
        "environment": {"A": "b"},
        "workingDirectory": "/",
        "logDirectory": "/l",
    }
    return json.dumps({**base, **changes}).encode()


def test_defaults():
    spec = parse_spec(document(environment={"A": "hunter2"}))
    assert (spec.shell, spec.user, spec.terminate_grace_seconds) == ("/bin/bash", None, 10.0)
    assert "hunter2" not in repr(spec)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"version": 2}, "version"),
        ({"surprise": 1}, "surprise"),
        ({"environment": {"A": 1}}, "environment.A"),
        ({"environment": {"A=B": "x"}}, "environment"),
        ({"environment": {"A": "x\0"}}, "environment.A"),
        ({"socket": "/" + "x" * 120}, "socket"),
        ({"stateDir": "relative"}, "stateDir"),
        ({"phases": []}, "phases"),
        (
            {"phases": [{"name": "j", "command": "", "stdout": "../o", "stderr": "e"}]},
            "phases[0].stdout",
        ),
        ({"phases": [{"name": "j", "command": "", "stdout": "o", "stderr": "o"}]}, "phases"),
        ({"user": {"uid": -1, "gid": 0}}, "user.uid"),
        ({"user": {"uid": 1, "gid": 0, "groups": ["x"]}}, "user.groups[0]"),
        ({"maxWallClockSeconds": "1"}, "maxWallClockSeconds"),
        ({"drainTimeoutSeconds": -1}, "drainTimeoutSeconds"),
    ],
)
def test_faults_name_their_path(changes, path):
    with pytest.raises(SpecError) as caught:
        parse_spec(document(**changes))
    assert caught.value.path == path


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage):
    with pytest.raises(SpecError):
        parse_spec(garbage)


def test_a_refusal_quotes_no_value():
    with pytest.raises(SpecError) as caught:
        parse_spec(document(environment={"KEY": ["hunter2"]}))
    assert "hunter2" not in str(caught.value)


@given(st.binary(max_size=300))
def test_control_answers_anything(line):
    reply = answer(line, {"status": lambda _: {}})
    assert reply["version"] == 1
    assert reply["ok"] or reply["error"]["hint"]


def test_control_errors():
    def code(request):
        return answer(json.dumps(request).encode(), {"status": lambda _: {}})["error"]

    assert code([])["code"] == "InvalidRequest"
    assert code({"op": "status"})["code"] == "UnsupportedVersion"
    assert code({"version": 2, "op": "status"})["supported"] == [1]
    assert code({"version": 1, "op": "nonsense"})["code"] == "UnknownOperation"
    assert answer(b"[" * 100_000, {})["error"]["code"] == "InvalidRequest"


def test_stat_of_a_process_with_an_awkward_name():
    line = "42 (a) b (c) S 7 " + " ".join(["0"] * 17) + " 99 0 0"
    assert parse_stat(line) == Process(pid=42, parent=7, state="S", start_time=99)


@given(st.dictionaries(st.integers(2, 30), st.integers(1, 30)))
def test_descendants(parents):
    table = {pid: Process(pid, parent, "S", 0) for pid, parent in parents.items()}
    found = set(descendants(table, 1, {5}))

    def below(pid, seen=()):
        if pid == 5 or pid in seen or pid not in parents:
            return False
        return parents[pid] == 1 or below(parents[pid], (*seen, pid))

    assert found == {pid for pid in parents if below(pid)}


def test_signal_goes_to_nobody_else():
    pid = os.getpid()
    start = processes.look_up(pid).start_time
    assert processes.send(Process(pid, 1, "R", start), 0)
    assert not processes.send(Process(pid, 1, "R", start + 1), signal.SIGKILL)


@given(st.text("abc", max_size=60), st.text("abc", min_size=1, max_size=12), st.integers(1, 80))
def test_no_part_of_a_secret_is_quoted(text, secret, keep):
    whole = (text + "|" + secret + "|end").encode()
    keep = max(keep, len(secret.encode()))
    tail = whole[-keep:]
    quoted = quote(tail, cut=len(tail) < len(whole), secrets=[secret])
    assert secret not in quoted
    rest = quoted.removesuffix("|end")  # what is left of the secret before its end
    assert rest == "" or rest.endswith(("*", "|", "e", "n", "d"))


def test_a_secret_cut_by_the_beginning_is_masked():
    assert quote(b"ter2 failed", cut=True, secrets=["hunter2"]) == "*** failed"
    assert quote(b"ter2 failed", cut=False, secrets=["hunter2"]) == "ter2 failed"


class FakeGroup:
    def __init__(self, count, obeys):
        self.alive = {pid: Process(pid, 1, "S", 0) for pid in range(count)}
        self.obeys = obeys
        self.sent = []

    def members(self):
        return dict(self.alive)

    def signal(self, members, number):
        self.sent.append(number)
        if number in self.obeys:
            self.alive.clear()


def climb(ladder, now=0.0):
    while not ladder.gone:
        due = ladder.step(now)
        assert due is None or due >= now
        now = now if due is None else due
    return now


def test_ladder_spares_who_obeys():
    group = FakeGroup(2, {signal.SIGTERM})
    ladder = Ladder(group)
    assert ladder.step(0.0) is None
    ladder.terminate(10.0, 0.0)
    assert climb(ladder) < 1.0
    assert signal.SIGKILL not in group.sent


def test_ladder_kills_after_grace_and_a_shorter_grace_wins():
    group = FakeGroup(2, {signal.SIGKILL})
    ladder = Ladder(group)
    ladder.terminate(10.0, 0.0)
    ladder.kill(1.0)  # the command itself has ended: those below keep their grace
    ladder.terminate(3.0, 2.0)
    ladder.terminate(60.0, 2.5)
    assert 5.0 <= climb(ladder) < 5.5
    assert group.sent.count(signal.SIGTERM) == 1


def test_ladder_gives_up_on_the_unkillable():
    group = FakeGroup(1, set())
    ladder = Ladder(group)
    ladder.kill(0.0)
    assert 10.0 <= climb(ladder) < 11.0
    assert len(ladder.survivors) == 1


def make_spool(tmp_path, limit=None):
    return spool.Spool(str(tmp_path), "s", spool.Quota(limit), 16)


def test_spool_quota_cuts_with_a_marker(tmp_path):
    made = make_spool(tmp_path, 5)
    made.append(b"abc", 0.0)
    made.append(b"defgh", 0.0)
    made.append(b"more", 0.0)
    made.finish(0.0)
    content = (tmp_path / "s").read_bytes()
    assert content.startswith(b"abcde\n[batchai: output cut here: the spool quota of 5 bytes")
    assert content.endswith(b"\n[batchai: 7 bytes of output dropped]\n")
    assert (made.written, made.dropped, made.tail) == (len(content), 7, b"abcdefghmore")
    os.close(made.reader)


def test_spool_survives_a_full_disk(tmp_path, monkeypatch):
    made = make_spool(tmp_path)
    real, room = os.write, 4

    def write(descriptor, data):
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(descriptor, bytes(data[:room]))
        room -= count
        return count

    monkeypatch.setattr(os, "write", write)
    made.append(b"abcdef", 0.0)
    made.append(b"lost", 0.1)
    room = 10
    made.append(b"lost too", 1.0)  # not even the marker fits
    room = 1000
    made.append(b"back", 2.0)
    monkeypatch.undo()
    made.finish(3.0)
    os.close(made.reader)
    content = (tmp_path / "s").read_bytes()
    assert content == (
        b"abcd\n[batchai: 6 bytes of output dropped: No space left on device]\n"
        b"\n[batchai: 8 bytes of output dropped: No space left on device]\nback"
    )
    assert made.dropped == 14


def test_status_is_not_seen_before_it_is_saved(tmp_path, monkeypatch):
    file = status.StatusFile(str(tmp_path), {"state": "starting"}, lambda: {"n": 1})
    assert file.publish()

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(status, "replace", full)
        assert not file.publish(state="running")
    assert file.current() == {"state": "starting", "n": 1}
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "starting"
    assert file.tick(100.0) is None
    assert file.current()["state"] == "running"
    assert status.previous_state(str(tmp_path / "status.json")) == "running"
