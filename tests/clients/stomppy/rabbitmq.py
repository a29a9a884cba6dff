"""A RabbitMQ of a test's own, from Debian's package, for as long as the tests run."""

import atexit
import os
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "support/rabbitmq.sh"
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

# Erlang is slow to start, and more so on a busy machine.
START_LIMIT = 180


class RabbitMq:
    def __init__(self):
        if not SERVER.exists():
            raise RuntimeError(f"{SERVER} is missing: tests/run installs the package rabbitmq-server.")
        self.port, distribution, epmd = free_ports(3)
        self.folder = Path(tempfile.mkdtemp(prefix="stompgate-pika-"))
        (self.folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.file.level = warning\n")
        (self.folder / "enabled_plugins").write_text("[].\n")
        # The node ends when this pipe does, however this process ends.
        self.process = subprocess.Popen(
            ["sh", SCRIPT, self.folder, f"stompgate-pika-{os.getpid()}", str(distribution), str(epmd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self.stop)
        self._wait()

    @property
    def uri(self):
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2f"

    def stop(self):
        self.process.stdin.close()
        self.process.wait()

    def _wait(self):
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                log = (self.folder / "server.log").read_text() if (self.folder / "server.log").exists() else ""
                if self.process.poll() is not None or "BOOT FAILED" in log or time.monotonic() > deadline:
                    raise RuntimeError(f"RabbitMQ does not start.\n{log}") from None
                time.sleep(0.1)


def free_ports(count):
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
