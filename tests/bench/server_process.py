"""A server that a benchmark starts, stops and starts again on one port."""
import http.client
import pathlib
import socket
import subprocess
import time


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class ServerProcess:
    """ARGV is its command, which listens on PORT. Its output goes to LOG."""

    def __init__(self, argv, port, log, start_s=120):
        self.argv = [str(part) for part in argv]
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = pathlib.Path(log)
        self.start_s = start_s
        self.process = None

    def start(self):
        """Returns when it is healthy."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.wait_healthy()
        except BaseException:  # also of an interruption: nobody else would stop it
            self.stop()
            raise

    def wait_healthy(self):
        until = time.monotonic() + self.start_s
        while not self.is_healthy():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{pathlib.Path(self.argv[0]).name} did not start:\n{self.tail()}")
            time.sleep(0.02)

    def is_healthy(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self):
        """SIGTERM, and SIGKILL after a minute."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def restart(self):
        self.stop()
        self.start()

    def tail(self):
        return self.log.read_text(errors="replace")[-2000:]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
