"""An end-to-end demo with real files: local→local, local→S3, S3→local, a directory, and a copy that must fail.

Starts an S3 server (rclone's own) and the service as a user would, on the embedded queue; submits the requests
with the command line; prints each with its response; compares the checksum of every copied file with its
source; and ends with the service's own history. Exit status 0 only if every check passes. Everything it makes is in a
temporary directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

BIN = Path(sys.executable).parent
COPIER = str(BIN / "medusa-copier")
RCLONE = str(BIN / "rclone")

RCLONE_CONF = """\
[storage]
type = s3
provider = Rclone
endpoint = http://127.0.0.1:{port}
access_key_id = demo-key
secret_access_key = {secret}
"""

SERVICE_CONF = """\
server:
  name: demo
http:
  listen: 127.0.0.1:0    # any free port
rclone_config_path: rclone.conf
roots:
  masters: {rclone_config: "%(here)s/masters"}   # a directory of this machine
  access: {rclone_config: "%(here)s/access"}     # another one
  bucket: {rclone_config: "storage:bucket"}      # a bucket of an S3 server
"""

FILES = {
    "film/reel-1.mov": os.urandom(50_000_000),
    "film/notes/übersicht – 概要.txt": "Käse, 茶, 🎞\n".encode(),
    "film/notes/100% \\ done?.txt": b"legal names are legal\n",
    "film/empty.log": b"",
    "letter.txt": b"Dear archive,\n",
}

COPIES = [  # source, target, must it succeed
    ("masters:film/reel-1.mov", "access:film/reel-1.mov", True),
    ("masters:film/notes/übersicht – 概要.txt", "bucket:notes/übersicht – 概要.txt", True),
    ("masters:film/notes/100% \\ done?.txt", "bucket:notes/100% \\ done?.txt", True),
    ("masters:film/reel-1.mov", "bucket:reels/1.mov", True),
    ("bucket:reels/1.mov", "access:from-s3/1.mov", True),
    ("bucket:notes/übersicht – 概要.txt", "access:from-s3/übersicht – 概要.txt", True),
    ("masters:film/empty.log", "access:empty.log", True),
    ("masters:letter.txt", "bucket:letter.txt", True),
    ("masters:film", "access:whole-film", True),
    ("bucket:no/such/object", "access:never.txt", False),
]


def main() -> int:
    """Run the demo; the exit status."""
    with tempfile.TemporaryDirectory(prefix="medusa-demo-") as directory, contextlib.chdir(directory):
        here = Path(directory)
        for name, content in FILES.items():
            (here / "masters" / name).parent.mkdir(parents=True, exist_ok=True)
            (here / "masters" / name).write_bytes(content)
        (here / "s3" / "bucket").mkdir(parents=True)
        (here / "access").mkdir()
        with s3_server(here) as port, service(here, port):
            url, token = api(here)
            print(f"\nThe HTTP API answers at {url}/?token={token}")
            results = [ask(*copy) for copy in COPIES]
            results.append(ask_api(url, token))
            if "--stay" in sys.argv:
                stay(url, token)
        print()
        results += [compare(here, source, target) for source, target, succeeds in COPIES if succeeds]
        results.append(history())
        copied = sum(1 for path in (here / "access").rglob("*") if path.is_file())
    good = all(results)
    print(
        f"\n{'All checks passed' if good else 'CHECKS FAILED'}: {results.count(True)} of {len(results)} checks, "
        f"{copied} files in 'access'."
    )
    return 0 if good else 1


@contextlib.contextmanager
def s3_server(here: Path) -> Iterator[int]:
    """A real S3 server on a free loopback port, over the directory ``s3``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    secret = os.urandom(12).hex()
    (here / "rclone.conf").write_text(RCLONE_CONF.format(port=port, secret=secret))
    command = [RCLONE, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"demo-key,{secret}", "s3"]
    with process(command, here / "s3.log"):
        wait_for_server(port)
        yield port


@contextlib.contextmanager
def service(here: Path, port: int) -> Iterator[None]:
    """The service, started as a user would start it."""
    (here / "demo.yaml").write_text(SERVICE_CONF % {"here": here})
    print(f"The service's configuration (S3 on port {port}):\n\n{SERVICE_CONF % {'here': here}}")
    subprocess.run([COPIER, "check", "--config", "demo.yaml"], check=True)
    with process([COPIER, "run", "--config", "demo.yaml"], here / "service.out"):
        yield


def api(here: Path) -> tuple[str, str]:
    """The URL of the service's HTTP API, and the token that it made."""
    deadline = time.monotonic() + 30
    log = here / "log" / "demo.log"
    while time.monotonic() < deadline:
        events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        if found := [event["url"] for event in events if event["event"] == "http_listening"]:
            return found[0], (here / "run" / "http-token").read_text().strip()
        time.sleep(0.1)
    raise SystemExit(f"the HTTP API doesn't answer; {log} says why")


def ask_api(url: str, token: str) -> bool:
    """Ask for a copy over HTTP, wait for the response, print both, and say whether it succeeded."""
    parameters = {"source_root": "masters", "source_key": "letter.txt", "target_root": "access"}
    body = json.dumps({"action": "copyto", "parameters": parameters | {"target_key": "letter-by-http.txt"}})
    headers = {"Authorization": f"Bearer {token}", "Prefer": "wait=30"}
    with urlopen(Request(f"{url}/v1/requests", body.encode(), headers), timeout=60) as answer:
        response = answer.read().decode()
    print(f"\nPOST      {url}/v1/requests  {body}\nresponse  {response}")
    return bool(json.loads(response)["status"] == "success")


@contextlib.contextmanager
def process(command: list[str], output: Path) -> Iterator[None]:
    """A process that ends with the block; what it printed is shown if it has not ended well."""
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as running:
        try:
            yield
        finally:
            running.send_signal(signal.SIGTERM)
            status = running.wait(30)
    if status != 0 and command[0] == COPIER:
        raise SystemExit(f"{shlex.join(command)} ended with {status}:\n{output.read_text()}")


def ask(source: str, target: str, must_succeed: bool) -> bool:
    """Submit one copy on the command line, print request and response, and return whether it went as expected."""
    (source_root, source_key), (target_root, target_key) = source.split(":", 1), target.split(":", 1)
    keys = {
        "source_root": source_root,
        "source_key": source_key,
        "target_root": target_root,
        "target_key": target_key,
    }
    request = json.dumps({"action": "copyto", "parameters": keys, "pass_through": {"ticket": 7}}, ensure_ascii=False)
    command = [COPIER, "submit", "--from", "-", "--wait", "--config", "demo.yaml"]
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=120, check=False)
    print(f"\nrequest   {request}\nresponse  {done.stdout.strip() or done.stderr.strip()}")
    response = json.loads(done.stdout or "{}")
    expected = (0, "success", 0) if must_succeed else (1, "failure", 3)
    return (done.returncode, response.get("status"), response.get("rclone_status")) == expected


def compare(here: Path, source: str, target: str) -> bool:
    """Compare every file of a copy with its source by checksum, as they lie on the disk."""

    def on_disk(place: str) -> Path:
        root, _, key = place.partition(":")
        return here / {"masters": "masters", "access": "access", "bucket": "s3/bucket"}[root] / key

    original, copy = on_disk(source), on_disk(target)
    names = [path.relative_to(original) for path in original.rglob("*") if path.is_file()] or [Path()]
    same = all((copy / name).is_file() and sha256(original / name) == sha256(copy / name) for name in names)
    print(f"{'same    ' if same else 'DIFFERS '} {source} = {target} ({len(names)} file{'s' * (len(names) > 1)})")
    return same


def stay(url: str, token: str) -> None:
    """Leave the pages up until Ctrl-C."""
    print(f"\nThe pages are at {url}/?token={token} until Ctrl-C.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def history() -> bool:
    """Show what the service has on record of all that."""
    print("\nmedusa-copier history:\n", flush=True)
    return subprocess.run([COPIER, "history", "--config", "demo.yaml"], check=False).returncode == 0


def sha256(path: Path) -> str:
    """The checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wait_for_server(port: int, timeout_s: float = 20) -> None:
    """Return when something listens on the port."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
