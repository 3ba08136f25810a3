"""A `tern serve` process and a client for it, for the tests that look from outside.

The client is plain sockets through http.client: it can be cut off at any byte, and what it had read
by then is kept.
"""
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_S = 60  # with a sanitizer on a loaded machine
SANITIZER_REPORT = re.compile(r"(ERROR|WARNING): (Address|Leak|Thread|UndefinedBehavior)Sanitizer"
                              r"|runtime error:|SUMMARY: \w+Sanitizer")


class Failure(Exception):
    """What a test found wrong."""


class Server:
    """One process on one store. Its standard error goes to a file that reports quote."""

    def __init__(self, tern, store, *flags, fault=None, log=None):
        self.tern = str(tern)
        self.store = pathlib.Path(store)
        self.log = pathlib.Path(log or f"{self.store}.log")
        environment = dict(os.environ)
        environment.pop("TERN_FAULT", None)
        if fault is not None:
            environment["TERN_FAULT"] = fault
        started = time.monotonic()
        with open(self.log, "ab") as errors:
            self.process = subprocess.Popen(
                [self.tern, "serve", "--store", str(self.store), "--port", "0", *map(str, flags)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment)
        self.port = self._read_port()
        self.start_s = time.monotonic() - started

    def _read_port(self):
        found = []
        reader = threading.Thread(target=lambda: found.append(self.process.stdout.readline()), daemon=True)
        reader.start()
        reader.join(START_S)
        line = found[0].decode() if found else ""
        match = re.match(r"tern: listening on http://127\.0\.0\.1:(\d+)\n$", line)
        if not match:
            self.process.kill()
            self.process.wait()
            raise Failure(f"the server did not start: said {line!r}\n{self.errors()}")
        return int(match.group(1))

    def errors(self):
        return self.log.read_text(errors="replace")[-4000:]

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout_s=60):
        """The exit status; negative: of the signal."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"the server did not end within {timeout_s} s\n{self.errors()}") from None
        finally:
            self.process.stdout.close()

    def is_running(self):
        return self.process.poll() is None

    def kill(self):
        if self.is_running():
            self.process.kill()
        return self.wait()

    def drain(self, timeout_s=60):
        """SIGTERM, and what must come of it."""
        self.signal(signal.SIGTERM)
        status = self.wait(timeout_s)
        if status != 0:
            raise Failure(f"exit status {status} after SIGTERM, expected 0\n{self.errors()}")
        self.check_reports()

    def check_reports(self):
        text = self.log.read_text(errors="replace")
        report = SANITIZER_REPORT.search(text)
        if report:
            raise Failure("a sanitizer's report:\n" + text[max(0, report.start() - 200):][:8000])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    # --- requests ----------------------------------------------------------------------

    def request(self, method, path, body=None, timeout_s=60):
        """(status, headers, bytes)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def metrics(self):
        status, _, body = self.request("GET", "/metrics")
        if status != 200:
            raise Failure(f"/metrics: {status}")
        lines = (line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def delete(self, conversation, salt=""):
        query = "?cache_salt=" + urllib.parse.quote(salt, safe="") if salt else ""
        return self.request("DELETE", "/v1/conversations/" + urllib.parse.quote(conversation, safe="") + query)[0]

    def await_metric(self, name, value, timeout_s=20):
        """Until the gauge has the value."""
        until = time.monotonic() + timeout_s
        while (seen := self.metrics().get(name)) != value:
            if time.monotonic() > until:
                raise Failure(f"{name} is {seen} after {timeout_s} s, expected {value}")
            time.sleep(0.01)


class Answer:
    """What came of one request, whole or not."""

    def __init__(self):
        self.status = None      # None: no response head came
        self.headers = None
        self.text = ""          # what was read of the answer's text
        self.finish = None      # finish_reason
        self.tern = None        # the object; there: the turn was acknowledged
        self.usage = None
        self.error = None       # the error object
        self.is_done = False    # [DONE], or the whole body
        self.lost = None        # why the connection ended early

    @property
    def is_acknowledged(self):
        return self.tern is not None

    def expect(self, what):
        if self.status != 200 or not self.is_done or self.error:
            raise Failure(f"{what}: status {self.status}, error {self.error}, lost {self.lost}")
        return self


def read_event(answer, event, data):
    if event == "error":
        answer.error = json.loads(data)["error"]
        return
    if data == "[DONE]":
        answer.is_done = True
        return
    chunk = json.loads(data)
    for choice in chunk["choices"]:
        answer.text += choice["delta"].get("content") or ""
        answer.finish = choice["finish_reason"] or answer.finish
    answer.tern = chunk.get("tern", answer.tern)
    answer.usage = chunk.get("usage") or answer.usage


def read_stream(answer, response, on_text):
    event = None
    while True:
        line = response.readline()
        if not line:
            if not answer.is_done and not answer.error:
                answer.lost = "the stream ended early"
            return
        line = line.decode().rstrip("\r\n")
        if line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: "):
            before = len(answer.text)
            read_event(answer, event, line[6:])
            event = None
            if on_text and len(answer.text) > before and on_text(answer):
                return


def read_body(answer, response):
    body = json.loads(response.read())
    if response.status != 200:
        answer.error = body["error"]
    else:
        choice = body["choices"][0]
        answer.text = choice["message"]["content"]
        answer.finish = choice["finish_reason"]
        answer.tern = body["tern"]
        answer.usage = body["usage"]
    answer.is_done = True


def chat(server, body, timeout_s=60, on_text=None, answer=None):
    """
    Sends one chat completion. ANSWER, if given, is filled as the response comes, so that another
    thread may look. ON_TEXT(answer) after each text; true leaves the stream.
    """
    answer = answer if answer is not None else Answer()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
    try:
        connection.request("POST", "/v1/chat/completions", body=json.dumps(body),
                           headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        answer.headers = response.headers
        answer.status = response.status
        if response.headers.get_content_type() == "text/event-stream":
            read_stream(answer, response, on_text)
        else:
            read_body(answer, response)
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as lost:
        answer.lost = f"{type(lost).__name__}: {lost}"
    finally:
        connection.close()
    return answer


def send_and_hold(server, body):
    """The request is sent, its answer left unread: a socket to close."""
    text = json.dumps(body).encode()
    held = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    held.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: tern\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(text) + text)
    return held


def turn_body(conversation, text, **fields):
    """A greedy turn of one user message, as the tests here send it."""
    body = {"model": "any", "conversation_id": conversation, "messages": [{"role": "user", "content": text}],
            "temperature": 0, "ignore_eos": True, "logits_digest": True}
    body.update(fields)
    if body.get("stream"):
        body.setdefault("stream_options", {"include_usage": True})
    return body


# --- the store, from outside -------------------------------------------------------------------

def run_tern(tern, *arguments):
    run = subprocess.run([str(tern), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)
    if run.returncode != 0:
        raise Failure(f"tern {' '.join(map(str, arguments))}: exit {run.returncode}: {run.stderr.strip()}")
    return run.stdout


def inspect(tern, store, *flags):
    return json.loads(run_tern(tern, "inspect", "--store", store, "--json", *flags))


def inspect_turns(tern, store, conversation, salt=""):
    flags = ("--salt", salt) if salt else ()
    return inspect(tern, store, "--conversation", conversation, *flags, "--turns")["turns"]


def line_of(turns):
    """The exact ids that the model saw."""
    return [token for turn in turns for token in turn["prompt_ids"] + turn["generated_ids"]]
