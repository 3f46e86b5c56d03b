"""A FAKE mount driver: it keeps the contract of the real one, over an empty file system.

``account`` in its instructions says how it is to behave: ``refuses``, ``dies``, ``hangs``,
``stuck`` (will not unmount), ``loses`` (unmounts, but says that a file was not committed).
Anything else is well.
"""

import json
import os
import sys
import time
from pathlib import Path

import pyfuse3
import trio

from fuse import control
from fuse.kernel import detach


def say(document: dict) -> None:
    print(json.dumps(document), flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


async def main(spec: dict) -> None:
    behaviour = spec["account"]
    run_dir = Path(spec["runDir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    pyfuse3.init(pyfuse3.Operations(), spec["mountpoint"], {"fsname=fake", "subtype=batchai-fake"})
    sock = control.listen(run_dir / "control.sock")
    done = trio.Event()

    async def status() -> dict:
        warnings = ["--made-up changes nothing here"] if behaviour == "warns" else []
        return {"stopping": False, "warnings": warnings}

    async def unmount() -> dict:
        if behaviour == "stuck":
            await trio.sleep_forever()
        detach(Path(spec["mountpoint"]))
        nursery.start_soon(finish)
        if behaviour == "loses":
            raise control.ControlError("NotCommitted", "1 file(s) are not in the store: a: full")
        return {}

    async def finish() -> None:
        await trio.sleep(0.1)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.serve, sock, {"status": status, "unmount": unmount})
        nursery.start_soon(pyfuse3.main)
        state = {"version": 1, "id": spec["id"], "pid": os.getpid()}
        (run_dir / "state.json").write_text(json.dumps(state))
        say({"version": 1, "state": "mounted", "pid": os.getpid()})
        await done.wait()
        nursery.cancel_scope.cancel()
    pyfuse3.close(unmount=False)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    instructions = json.load(sys.stdin)
    match instructions["account"]:
        case "refuses":
            error = {"code": "AuthenticationFailed", "message": "the key is wrong", "hint": "look"}
            say({"version": 1, "state": "failed", "error": error})
            sys.exit(1)
        case "dies":
            sys.stderr.write("Traceback: it died\n")
            os.kill(os.getpid(), 9)
        case "hangs":
            time.sleep(600)
        case _:
            trio.run(main, instructions)
