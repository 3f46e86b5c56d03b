"""Run the digits job from nothing to a trained model, on this machine alone, and leave nothing.

What a person would do by hand, in this order: start storage, upload the data and the script, start
an agent, submit the job, follow its output, list its files, fetch its metrics. Everything lives in
one temporary directory and on loopback, beside a real agent if there is one. ``scripts/demo`` calls
it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import demo_leftovers as leftovers
from demo_share import Share, Sighting, Watcher, read_until

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
PYTHON = ROOT / ".venv" / "bin" / "python"
BATCHAI = ROOT / ".venv" / "bin" / "batchai"
JOB = "digits"
LEAST_ACCURACY = 0.95
STEPS = 7
TAIL_LINES = 15
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StepFailedError(Exception):
    """A step did not succeed: why, and the log that tells more."""

    def __init__(self, why: str, *, log: Path | None = None) -> None:
        super().__init__(why)
        self.log = log


@dataclass
class Demo:
    """What the steps share.

    Attributes:
        directory: Holds all of the demo: storage, state, logs, mounts.
        user: The name of the user that the job runs as.
        interpreter: The Python that the job runs.
        job_file: The job.json that is submitted.
        images: How many images are uploaded; None is all.
        step: The number and name of the current step.
    """

    directory: Path
    user: str
    interpreter: Path
    job_file: Path
    images: int | None
    step: str = "start"
    _number: int = 0
    _begun: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def config(self) -> Path:
        """The agent's configuration file."""
        return self.directory / "agent.toml"

    @property
    def agent_log(self) -> Path:
        """What the agent says."""
        return self.directory / "agent.log"

    @property
    def socket(self) -> Path:
        """The agent's API."""
        return self.directory / "run" / "agent.sock"

    def begin(self, name: str) -> None:
        """Announce the next step."""
        self._number += 1
        self.step = name
        self.say(f"[{self._number}/{STEPS}] {name}")

    def say(self, line: str) -> None:
        """Print one whole line, from whichever thread."""
        with self._lock:
            print(line, flush=True)

    def tell(self, line: str) -> None:
        """Print a line that belongs to the current step."""
        self.say(f"      {line}")

    def batchai(self, *arguments: str, timeout_s: float = 60) -> str:
        """The output of one ``batchai`` command."""
        done = self._run([str(BATCHAI), *arguments], timeout_s=timeout_s)
        return done.stdout

    def batchai_json(self, *arguments: str) -> Any:
        """The output of one ``batchai`` command, asked for as JSON."""
        return json.loads(self.batchai(*arguments, "--output", "json"))

    def _run(self, command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            words = " ".join(Path(word).name if i == 0 else word for i, word in enumerate(command))
            why = (
                f"{words!r} exited with {done.returncode}:\n{(done.stderr or done.stdout).strip()}"
            )
            raise StepFailedError(why, log=self.agent_log)
        return done

    def environment(self) -> dict[str, str]:
        """The environment of every command: the demo's own agent, whatever the caller has set."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BATCHAI_")}
        return {**inherited, "BATCHAI_API__SOCKET": str(self.socket)}


def job_user(wanted: str | None) -> str:
    """Who the job runs as: an unprivileged user who can reach the interpreter and its packages.

    The jobs' own user, or, where the checkout is closed to others, its owner, as who runs ``sudo
    scripts/demo`` there expects. Root only where the checkout is root's and closed.
    """
    if wanted:
        return wanted
    for name in ("batchai-job", pwd.getpwuid(ROOT.stat().st_uid).pw_name):
        if name != "root" and _can_run_python(name):
            return name
    return "root"


def _can_run_python(name: str) -> bool:
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        return False
    try:
        probe = subprocess.run(
            [str(PYTHON), "-c", "import sklearn, PIL"],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": os.defpath},
            capture_output=True,
            check=False,
            timeout=60,
        )
    except PermissionError:
        return False  # the checkout lies below a directory that is closed to others, such as /root
    return probe.returncode == 0


@contextlib.contextmanager
def storage(demo: Demo) -> Iterator[Any]:
    """Azurite and Samba, running."""
    from agent.dev import storage as dev

    directory = demo.directory / "storage"
    try:
        demo.batchai("dev", "up", "--directory", str(directory), timeout_s=90)
        yield dev.status(directory)
    finally:
        demo.batchai("dev", "down", "--directory", str(directory), timeout_s=60)


@contextlib.contextmanager
def agent(demo: Demo) -> Iterator[subprocess.Popen[bytes]]:
    """The agent, answering on its socket."""
    with demo.agent_log.open("wb") as log:
        process = subprocess.Popen(
            [str(BATCHAI), "agent", "--config", str(demo.config)],
            env=demo.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops things in order
        )
    try:
        wait_for_agent(demo, process)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for_agent(demo: Demo, process: subprocess.Popen[bytes]) -> None:
    """Return once the agent accepts connections."""
    import socket

    deadline = time.monotonic() + 30
    while True:
        if process.poll() is not None:
            why = f"the agent ended with exit code {process.returncode}"
            raise StepFailedError(why, log=demo.agent_log)
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(demo.socket))
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    why = f"the agent did not open {demo.socket} within 30 s: {error}"
                    raise StepFailedError(why, log=demo.agent_log) from None
        time.sleep(0.05)


def write_config(demo: Demo, store: Any) -> None:
    """The configuration of an agent that shares no path and no port with another."""
    here = demo.directory
    demo.config.write_text(
        f"""\
[node]
mount_root = "{here}/LS_root/mounts"
jobs_root = "{here}/LS_root/jobs"
state_dir = "{here}/state"
run_dir = "{here}/run"
cache_dir = "{here}/cache"

[api]
socket = "{demo.socket}"

[jobs]
user = "{demo.user}"
allow_root = {str(demo.user == "root").lower()}

{store.agent_config()}"""
    )
    demo.config.chmod(0o600)


def upload(demo: Demo, store: Any) -> None:
    """Run prepare.py, showing what it prints."""
    command = [
        str(PYTHON),
        str(DIGITS / "prepare.py"),
        *("--account", store.account),
        *("--blob-endpoint", store.blob_endpoint),
        *("--file-endpoint", store.file_endpoint),
        *("--container", store.container),
        *("--share", store.share),
        *(() if demo.images is None else ("--images", str(demo.images))),
    ]
    environment = demo.environment() | {"AZURE_BATCHAI_STORAGE_KEY": store.key}
    if subprocess.run(command, env=environment, check=False, timeout=120).returncode != 0:
        raise StepFailedError("prepare.py did not succeed: its output is above")


def submit(demo: Demo) -> dict[str, Any]:
    """Create the job; returns what the agent says of it."""
    document = json.loads(demo.job_file.read_text())
    properties = document.get("properties", document)
    for variable in properties.get("environmentVariables", []):
        if variable["name"] == "PYTHON":
            variable["value"] = str(demo.interpreter)
    file = demo.directory / "job.json"
    file.write_text(json.dumps(document, indent=4) + "\n")
    demo.tell(f"batchai job create -n {JOB} -f {file}")
    demo.batchai("job", "create", "-n", JOB, "-f", str(file))
    return show_job(demo)


def show_job(demo: Demo) -> dict[str, Any]:
    """The job as the agent has it, without the ``properties`` level if there is one."""
    job: dict[str, Any] = demo.batchai_json("job", "show", "-n", JOB)
    properties: dict[str, Any] = job.get("properties", job)
    return properties


def follow(demo: Demo) -> bytes:
    """Print the job's stdout while it runs; returns it. The job's failure is the demo's."""
    demo.tell(f"batchai job file stream -j {JOB} -f stdout.txt --exit-code")
    command = [str(BATCHAI), "job", "file", "stream", "-j", JOB, "-f", "stdout.txt", "--exit-code"]
    messages = demo.directory / "stream.log"
    streamed = []
    with (
        messages.open("wb") as log,
        subprocess.Popen(
            command, env=demo.environment(), stdout=subprocess.PIPE, stderr=log
        ) as stream,
    ):
        try:
            assert stream.stdout is not None
            for line in stream.stdout:
                streamed.append(line)
                demo.tell(f"| {line.decode(errors='replace').rstrip()}")
            exit_code = stream.wait(30)
        except BaseException:
            stream.kill()
            raise
    if exit_code != 0:
        raise StepFailedError(_failure(demo, exit_code), log=demo.agent_log)
    return b"".join(streamed)


def _failure(demo: Demo, exit_code: int) -> str:
    """What the agent says about a job whose output could not be followed to a good end."""
    said = (demo.directory / "stream.log").read_text(errors="replace").strip()
    lines = [f"following the job's output ended with exit code {exit_code}", said]
    with contextlib.suppress(StepFailedError, subprocess.TimeoutExpired):
        lines.append(demo.batchai("job", "show", "-n", JOB).rstrip())
    return "\n".join(line for line in lines if line)


def stop_job(demo: Demo) -> None:
    """End a job that still runs, so that its volumes are unmounted in order."""
    with contextlib.suppress(StepFailedError, ValueError, subprocess.TimeoutExpired):
        if show_job(demo).get("executionState") not in {"succeeded", "failed"}:
            demo.tell(f"ending job {JOB!r}")
            demo.batchai("job", "terminate", "-n", JOB, timeout_s=90)


def run(demo: Demo) -> None:
    """All steps; whatever was started is stopped again, in reverse order, in every case."""
    with contextlib.ExitStack() as stack:
        demo.begin("Start local storage: Azurite (blobs) and Samba (file share)")
        store = stack.enter_context(storage(demo))
        demo.tell(f"blobs at {store.blob_endpoint}, share {store.share!r} at {store.file_endpoint}")

        demo.begin("Upload the images to the container and train.py to the share")
        upload(demo, store)

        demo.begin("Start the agent")
        write_config(demo, store)
        process = stack.enter_context(agent(demo))
        demo.tell(f"process {process.pid}, API at {demo.socket}, jobs run as {demo.user!r}")

        demo.begin("Submit the job")
        stack.callback(stop_job, demo)
        job = submit(demo)
        segment = job["jobOutputDirectoryPathSegment"]

        demo.begin("Follow its stdout")
        share = Share(store.file_endpoint, store.share, store.account, store.key)
        stack.callback(share.close)
        stdout = f"{segment}/stdouterr/stdout.txt"
        state: list[str] = []

        def seen(sighting: Sighting) -> None:
            after = (
                ""
                if sighting.delay_s is None
                else f" {sighting.delay_s:.2f} s after it was written"
            )
            demo.tell(f"* on the share{after}: {sighting.size} bytes")
            with contextlib.suppress(StepFailedError):
                state.append(show_job(demo)["executionState"])

        with Watcher(share, stdout, seen) as watcher:
            streamed = follow(demo)
        if watcher.sighting is None or state != ["running"]:
            raise StepFailedError(f"stdout was not seen on the share while the job ran: {stdout}")
        on_share = read_until(share, stdout, len(streamed), timeout_s=5)
        if on_share != streamed:
            why = f"the share has {len(on_share)} bytes of stdout, {len(streamed)} were streamed"
            raise StepFailedError(why, log=demo.agent_log)
        demo.tell(f"* the share has the same {len(on_share)} bytes of stdout")

        demo.begin("List its output files and fetch the metrics")
        for directory in ("stdouterr", "MODEL"):
            demo.tell(f"batchai job file list -j {JOB} -d {directory}")
            for line in demo.batchai(
                "job", "file", "list", "-j", JOB, "-d", directory
            ).splitlines():
                demo.tell(f"  {line}")
        metrics = json.loads(share.read(f"{segment}/model/metrics.json"))
        info = show_job(demo)["executionInfo"]
        demo.tell(f"exit code {info['exitCode']}, {info['startTime']} to {info['endTime']}")
        demo.tell(f"test accuracy {metrics['accuracy']:.4f} on {metrics['testImages']} images")
        if metrics["accuracy"] <= LEAST_ACCURACY:
            raise StepFailedError(f"an accuracy above {LEAST_ACCURACY} was expected")

        demo.begin("Stop everything")


def check_clean(demo: Demo, *, forgiving: bool) -> None:
    """No mount and no process may be left; what is left nevertheless is removed by force."""
    processes, mounts = leftovers.wait_until_clean(demo.directory, timeout_s=15)
    if not processes and not mounts:
        demo.tell("no mount and no process is left")
        return
    left = [f"mount {point}" for point in mounts]
    left += [f"process {process.pid}: {process.command}" for process in processes]
    leftovers.remove_forcibly(demo.directory)
    why = "left behind (removed by force now):\n" + "\n".join(left)
    if forgiving:
        print(why, file=sys.stderr)
    else:
        raise StepFailedError(why, log=demo.agent_log)


def report(demo: Demo, why: str, log: Path | None) -> None:
    """Say which step failed, why, and what the log said last."""
    print(f"\ndemo: failed at {demo.step!r}: {why}", file=sys.stderr)
    if log is not None and log.exists():
        tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        print(f"\nThe last lines of {log}:", file=sys.stderr)
        print("\n".join(f"    {line}" for line in tail), file=sys.stderr)
        print("\n(scripts/demo --keep keeps the directory with all logs.)", file=sys.stderr)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--job", type=Path, default=DIGITS / "job.json", help="the job to submit")
    parser.add_argument("--user", help="run the job as this user (default: one that can)")
    parser.add_argument("--images", type=int, metavar="N", help="upload only the first N images")
    parser.add_argument("--python", type=Path, default=PYTHON, help="the job's Python")
    parser.add_argument("--directory", type=Path, help="make the demo's directory in here")
    parser.add_argument("--keep", action="store_true", help="keep the demo's directory")
    return parser.parse_args()


def interrupted(number: int, _frame: object) -> NoReturn:
    """End through every clean-up, which no second signal interrupts."""
    for other in STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """Run the demo; returns its exit code."""
    given = arguments()
    for number in STOP_SIGNALS:
        signal.signal(number, interrupted)
    leftovers.adopt_orphans()
    directory = Path(tempfile.mkdtemp(prefix="batchai-demo-", dir=given.directory)).resolve()
    directory.chmod(0o755)  # the job's user passes through; what is secret in it is closed itself
    demo = Demo(directory, job_user(given.user), given.python, given.job, given.images)
    begun = time.monotonic()
    code = 1
    try:
        run(demo)
        code = 0
    except StepFailedError as failure:
        report(demo, str(failure), failure.log)
    except subprocess.TimeoutExpired as failure:
        report(demo, f"no answer within {failure.timeout:.0f} s: {failure.cmd}", demo.agent_log)
    except KeyboardInterrupt:
        print(f"\ndemo: interrupted at {demo.step!r}", file=sys.stderr)
        code = 130
    try:
        check_clean(demo, forgiving=code != 0)
    except StepFailedError as failure:
        report(demo, str(failure), failure.log)
        code = 1
    if code == 0:
        print(f"Done in {time.monotonic() - begun:.0f} s.")
    if given.keep:
        print(f"Kept: {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
