"""Starts http_fake_server for a test and sees that it ends cleanly."""

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time

import httpx
import openai

SERVER = os.environ.get('TERN_HTTP_SERVER', '')
PATIENCE_S = 60  # for what must happen sometime; sanitizers and a loaded machine are slow


class FakeServer:
    """One server process. `events` are the lines of its turn service."""

    def __init__(self, **options):
        arguments = [f'{name}={value}' for name, value in options.items()]
        self.process = subprocess.Popen([SERVER, *arguments], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.events = queue.Queue()
        self.errors = []
        first = self.process.stdout.readline()
        if not first.startswith('port '):
            raise AssertionError(f'no port: {first!r} {self.process.stderr.read()}')
        self.port = int(first.split()[1])
        self.url = f'http://127.0.0.1:{self.port}'
        self.threads = [threading.Thread(target=self._read_events),
                        threading.Thread(target=self._read_errors)]
        for thread in self.threads:
            thread.start()

    def _read_events(self):
        for line in self.process.stdout:
            self.events.put(line.strip())

    def _read_errors(self):
        self.errors.extend(self.process.stderr)

    def expect(self, event, timeout=PATIENCE_S):
        """The next event is this one."""
        found = self.events.get(timeout=timeout)
        assert found == event, f'{found!r} instead of {event!r}'

    def wait_for(self, event, timeout=PATIENCE_S):
        end = time.monotonic() + timeout
        while self.events.get(timeout=max(0.01, end - time.monotonic())) != event:
            pass

    def descriptors(self):
        return len(os.listdir(f'/proc/{self.process.pid}/fd'))

    def task_count(self):
        return len(os.listdir(f'/proc/{self.process.pid}/task'))

    def memory_kib(self):
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as file:
            for line in file:
                if line.startswith('VmRSS:'):
                    return int(line.split()[1])
        return 0

    def stop(self, expected=0):
        """SIGTERM, and the end: status, no report of a sanitizer, nothing left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        for thread in self.threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()
        report = ''.join(self.errors)
        assert 'Sanitizer' not in report and 'runtime error' not in report, report
        assert status == expected, f'status {status}: {report}'

    # --- raw sockets ---------------------------------------------------------------------

    def connect(self):
        connection = socket.create_connection(('127.0.0.1', self.port), timeout=PATIENCE_S)
        return connection

    def exchange(self, data):
        """Sends bytes on a connection of their own; all that comes back until it is closed."""
        with self.connect() as connection:
            try:
                connection.sendall(data)
            except OSError:
                pass
            return read_to_end(connection)


def read_to_end(connection):
    received = b''
    try:
        while True:
            piece = connection.recv(65536)
            if not piece:
                return received
            received += piece
    except ConnectionResetError:
        return received


def body_of(script, **fields):
    return json.dumps({'messages': [{'role': 'user', 'content': script}], **fields}).encode()


def post(body, path='/v1/chat/completions', extra=''):
    return (f'POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{extra}'
            f'Content-Length: {len(body)}\r\n\r\n').encode() + body


class Reader:
    """Reads answers one after the other from a connection."""

    def __init__(self, connection):
        self.connection = connection
        self.pending = b''

    def _more(self):
        piece = self.connection.recv(65536)
        if not piece:
            raise EOFError(f'closed after {self.pending!r}')
        self.pending += piece

    def _line(self):
        while b'\r\n' not in self.pending:
            self._more()
        line, self.pending = self.pending.split(b'\r\n', 1)
        return line

    def _bytes(self, count):
        while len(self.pending) < count:
            self._more()
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def head(self):
        status = int(self._line().split()[1])
        fields = {}
        while line := self._line():
            name, value = line.decode().split(':', 1)
            fields[name.lower()] = value.strip()
        return status, fields

    def chunk(self):
        size = int(self._line(), 16)
        data = self._bytes(size)
        assert self._line() == b''
        return data

    def answer(self, has_body=True):
        status, fields = self.head()
        if not has_body:
            return status, fields, b''
        if fields.get('transfer-encoding') == 'chunked':
            body = b''
            while piece := self.chunk():
                body += piece
            return status, fields, body
        return status, fields, self._bytes(int(fields['content-length']))


def events_of(body):
    """The data of server-sent events: (name, parsed JSON or text)."""
    found = []
    for block in body.decode().split('\n\n'):
        name, data = None, None
        for line in block.split('\n'):
            if line.startswith('event: '):
                name = line[7:]
            elif line.startswith('data: '):
                data = line[6:]
        if data is not None:
            found.append((name, data if data == '[DONE]' else json.loads(data)))
    return found


# --- public clients ----------------------------------------------------------------------


def client_of(server, **options):
    return openai.OpenAI(base_url=server.url + '/v1', api_key='none', max_retries=0, **options)


def ask(client, script, **fields):
    extra = fields.pop('extra_body', None)
    return client.chat.completions.create(model='any', extra_body=extra,
                                          messages=[{'role': 'user', 'content': script}], **fields)


def post_json(server, fields, path='/v1/chat/completions', **options):
    return httpx.post(server.url + path, json=fields, timeout=PATIENCE_S, **options)


def messages(script='text ok'):
    return {'messages': [{'role': 'user', 'content': script}]}


def error_of(answer):
    error = answer.json()['error']
    assert {'message', 'type', 'param', 'code'} <= error.keys()
    assert isinstance(error['message'], str) and error['message']
    return error
