"""A Mosquitto of a test's own, from Debian's package, for as long as the tests run."""

import atexit
import subprocess
import tempfile
import time
from pathlib import Path

from rabbitmq import free_ports

SERVER = Path("/usr/sbin/mosquitto")
START_LIMIT = 30


class Mosquitto:
    def __init__(self):
        if not SERVER.exists():
            raise RuntimeError(f"{SERVER} is missing: tests/run installs the package mosquitto.")
        [self.port] = free_ports(1)
        self.folder = tempfile.TemporaryDirectory(prefix="stompgate-paho-")
        config = Path(self.folder.name) / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\n")
        log = Path(self.folder.name) / "server.log"
        with log.open("w") as output:
            self.process = subprocess.Popen([SERVER, "-c", config], stdout=output, stderr=output)
        atexit.register(self.stop)
        deadline = time.monotonic() + START_LIMIT
        # Its own log says that it is there: others may listen, too.
        while " running\n" not in log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Mosquitto does not start.\n" + log.read_text())
            time.sleep(0.02)

    @property
    def uri(self):
        return f"mqtt://127.0.0.1:{self.port}"

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.folder.cleanup()
