"""A gateway of a test's own: starts the program on a free port, waits until it listens, ends it by its pid."""

import atexit
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("STOMPGATE_BIN", ROOT / "target/release/stompgate"))
START_LIMIT = 30

# What every gateway here is started with: heart-beats small enough to be watched, and no port that two would want.
SETTINGS = {"STOMPGATE_SESSION__HEARTBEAT_MIN": "100ms", "STOMPGATE_ADMIN__ENABLED": "false"}

# So that a run that is told to end takes its gateways with it.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


class Gateway:
    def __init__(self, settings=None):
        self.settings = {**SETTINGS, **(settings or {})}
        self.port = 0
        self.process = None
        self.log = []
        atexit.register(self.kill)

    def start(self):
        """Starts it; again, after `kill` or `stop`, on the port that it had."""
        if not BINARY.exists():
            raise RuntimeError(f'There is no gateway at {BINARY}: run "cargo build --release", or set STOMPGATE_BIN.')
        listen = {"STOMPGATE_SERVER__LISTEN": f"127.0.0.1:{self.port}"}
        self.process = subprocess.Popen(
            [BINARY],
            env={**own_environment(), **self.settings, **listen},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        listening = threading.Event()
        threading.Thread(target=self._read, args=(self.process.stdout, listening), daemon=True).start()
        if not listening.wait(START_LIMIT) or not self.port:
            self.kill()
            raise RuntimeError("The gateway did not say that it listens.\n" + "".join(self.log))
        return self

    def _read(self, output, listening):
        for line in output:
            self.log.append(line)
            if found := re.search(r"listening on (ws://\S+)", line):
                self.port = urlsplit(found[1]).port
                listening.set()
        listening.set()  # it ended, perhaps before it listened
        output.close()

    def kill(self):
        """Takes it away without a word, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self):
        """Asks it to stop, and holds it to a clean end."""
        code = self._end(signal.SIGTERM)
        assert code == 0, f"The gateway ended with {code} instead of 0.\n{''.join(self.log)}"

    def freeze(self):
        """Stops its world, as a host that swaps or hangs would."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def _end(self, how):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait() if self.process else None


def own_environment():
    """Our environment without settings of a gateway, so that a developer's own do not reach the tests."""
    return {name: value for name, value in os.environ.items() if not re.match(r"STOMPGATE_.*__", name)}
