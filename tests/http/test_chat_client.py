"""`tern chat` with a server that speaks the API and does as each test says."""
import http.server
import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TERN = os.environ.get("TERN", str(ROOT / "build" / "release" / "tern"))
WAIT_S = 20


def event(data, name=None):
    text = data if isinstance(data, str) else json.dumps(data)
    return ((f"event: {name}\n" if name else "") + f"data: {text}\n\n").encode()


def answer(text, tern, tokens=5):
    """The events of a whole answer, a character a chunk."""
    events = [event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})]
    events += [event({"choices": [{"index": 0, "delta": {"content": one}}]}) for one in text]
    events += [b": still here\n\n",
               event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "tern": tern}),
               event({"choices": [], "usage": {"completion_tokens": tokens}}), event("[DONE]")]
    return events


def tern_object(turn, **more):
    return {"turn": turn, "created": turn == 1, "tier": "device", "num_computed_tokens": 40,
            "tokens_reused": 40, "tokens_run": 7, "bytes_read": 0, "promote_ms": 0.0,
            "prefill_ms": 3.5, "decode_ms": 40.0, "commit_ms": 0.5, "durability": "volatile", "rebuilt": False,
            "reason": None, **more}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        self.server.script.pop(0)(self)

    def log_message(self, *_):
        pass

    def begin(self, status, content_type, *fields):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()


def chunked(events):
    """Each event in two chunks of its own."""
    def write(handler):
        handler.begin(200, "text/event-stream", ("Transfer-Encoding", "chunked"))
        for one in events:
            for part in (one[:7], one[7:]):
                if part:
                    handler.wfile.write(b"%X;x=y\r\n%s\r\n" % (len(part), part))
            handler.wfile.flush()
        handler.wfile.write(b"0\r\nTrailer: x\r\n\r\n")
    return write


def until_close(events):
    def write(handler):
        handler.begin(200, "text/event-stream", ("Connection", "close"))
        for one in events:
            handler.wfile.write(one)
        handler.close_connection = True
    return write


def refusal(status, code, **more):
    def write(handler):
        body = json.dumps({"error": {"message": f"about {code}", "type": "invalid_request_error",
                                     "param": None, "code": code, **more}}).encode()
        handler.begin(status, "application/json", ("Content-Length", str(len(body))))
        handler.wfile.write(body)
    return write


@pytest.fixture(name="server")
def make_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    server.script = []
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def chat(server, lines, *options):
    return subprocess.run([TERN, "chat", "--url", server.url, *options], text=True, timeout=WAIT_S,
                          input="".join(line + "\n" for line in lines), capture_output=True,
                          check=False)


def test_turns_of_a_conversation(server):
    server.script = [
        chunked(answer("Grüße! 🚀", tern_object(1, tokens_reused=0, tier="none"))),
        until_close(answer("Two\nlines\n", tern_object(
            2, tier="disk", bytes_read=4096, promote_ms=1.25, durability="durable"))),
        chunked(answer("Again", tern_object(3, rebuilt=True, reason="state_missing")))]
    ran = chat(server, ["Hello", "", "  ", "And ä?", "More"], "--system", "Be kind.")
    assert ran.returncode == 0 and ran.stderr == ""
    out = ran.stdout.split("\n")
    identity = server.requests[0][2]["conversation_id"]
    assert out[0] == f"conversation {identity}" and len(identity) > 20
    assert out[1] == "Grüße! 🚀"
    assert out[2].startswith("[turn 1 (new): 0 tokens reused, 7 run, first token after ")
    assert out[2].endswith(" ms, 100.0 tokens/s, volatile]")
    assert out[3:5] == ["Two", "lines"]
    assert out[5].startswith("[turn 2: 40 tokens reused from disk (4096 bytes in 1.2 ms), 7 run, ")
    assert out[5].endswith(", durable]")
    assert out[7].endswith(", volatile, rebuilt, reason: state_missing]")
    assert [body["messages"] for _, _, body in server.requests] == [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
        [{"role": "user", "content": "And ä?"}], [{"role": "user", "content": "More"}]]
    expected = [body.get("conversation_expected_turn") for _, _, body in server.requests]
    assert expected == [None, 1, 2]
    for path, headers, body in server.requests:
        assert path == "/v1/chat/completions" and body["stream"] is True
        assert body["conversation_id"] == identity and "Authorization" not in headers
        assert not {"cache_salt", "temperature", "max_tokens"} & set(body)


def test_options_reach_the_server(server):
    server.script = [chunked(answer("x", tern_object(8)))]
    server.url += "/prefix/"
    ran = chat(server, ["Hello"], "--conversation", "c-7", "--salt", "pepper", "--temperature", "0",
               "--max-tokens", "12", "--api-key", "sesame")
    assert ran.returncode == 0
    path, headers, body = server.requests[0]
    assert path == "/prefix/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sesame"
    assert (body["conversation_id"], body["cache_salt"]) == ("c-7", "pepper")
    assert (body["temperature"], body["max_tokens"]) == (0, 12)
    assert ran.stdout.startswith("conversation c-7\n")


def test_refusals_are_shown_and_the_talk_goes_on(server):
    server.script = [refusal(429, "queue_full"), chunked(answer("x", tern_object(1)))]
    ran = chat(server, ["Hello", "Hello"], "--system", "Be kind.")
    assert ran.returncode == 1
    assert ran.stderr == "tern chat: 429 queue_full: about queue_full\n"
    assert "\nx\n[turn 1" in ran.stdout
    assert len(server.requests[1][2]["messages"]) == 2  # the system message was not used up


def test_a_conflict_offers_the_committed_turn(server):
    conflict = refusal(409, "conversation_turn_conflict", committed_turn=5)
    server.script = [chunked(answer("x", tern_object(1))), conflict,
                     chunked(answer("z", tern_object(6))), conflict]
    ran = chat(server, ["one", "two", "y", "three", "n"])
    assert ran.returncode == 1
    assert ran.stderr.count("409 conversation_turn_conflict") == 2
    assert "go on from turn 5? [y/n]" in ran.stdout and "[turn 6" in ran.stdout
    sent = [(body["messages"][0]["content"], body.get("conversation_expected_turn"))
            for _, _, body in server.requests]
    assert sent == [("one", None), ("two", 1), ("two", 5), ("three", 6)]


@pytest.mark.parametrize("ending, words", [
    ([event({"error": {"code": "device_failed", "message": "gone"}}, "error")],
     "device_failed: gone"),
    ([], "before its end"),
    ([event("{")], "no JSON"),
])
def test_an_answer_that_breaks_off(server, ending, words):
    begun = answer("Hal", tern_object(1))[:4]
    server.script = [chunked(begun + ending), chunked(answer("x", tern_object(1)))]
    ran = chat(server, ["one", "two"])
    assert ran.returncode == 1 and words in ran.stderr
    assert "\nHal\nx\n[turn 1" in ran.stdout
    assert "conversation_expected_turn" not in server.requests[1][2]


def test_a_connection_that_breaks(server):
    def cut(handler):
        handler.begin(200, "text/event-stream", ("Content-Length", "1000"))
        handler.wfile.write(b"data: ")
        handler.close_connection = True

    def nonsense(handler):
        handler.wfile.write(b"SSH-2.0\r\n")
        handler.close_connection = True

    def bad_chunk(handler):
        handler.begin(200, "text/event-stream", ("Transfer-Encoding", "chunked"))
        handler.wfile.write(b"nothing\r\n")
        handler.close_connection = True

    server.script = [cut, nonsense, bad_chunk]
    ran = chat(server, ["one", "two", "three"])
    assert ran.returncode == 1
    errors = ran.stderr.strip().split("\n")
    assert len(errors) == 3
    assert "closed the connection" in errors[0] and "not HTTP" in errors[1]
    assert "no size of a chunk" in errors[2]


@pytest.mark.parametrize("url, code, words", [
    ("http://127.0.0.1:1", 1, "127.0.0.1 port 1: "),
    ("https://127.0.0.1", 1, "https"),
    ("localhost:8080", 1, "no URL"),
    ("http://a:b", 1, "no URL"),
    ("http://[::1", 1, "']' is missing"),
])
def test_a_server_that_is_not_there(url, code, words):
    ran = subprocess.run([TERN, "chat", "--url", url], input="x\n", text=True, timeout=WAIT_S,
                         capture_output=True, check=False)
    assert ran.returncode == code and words in ran.stderr


def read_until(terminal, words):
    seen = b""
    end = time.monotonic() + WAIT_S
    while words not in seen:
        assert select.select([terminal], [], [], max(0, end - time.monotonic()))[0], seen
        seen += os.read(terminal, 4096)
    return seen


def test_the_interrupt_key_cancels_an_answer_and_leaves_at_the_prompt(server):
    is_closed = threading.Event()

    def endless(handler):
        handler.begin(200, "text/event-stream", ("Connection", "close"))
        try:
            while True:
                handler.wfile.write(event({"choices": [{"delta": {"content": "lo\x1b[2J\x9b"}}]}))
                time.sleep(0.01)
        except OSError:
            is_closed.set()
        handler.close_connection = True

    server.script = [endless, chunked(answer("done", tern_object(1)))]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(TERN, [TERN, "chat", "--url", server.url])
    try:
        read_until(terminal, b"> ")
        os.write(terminal, b"helX\x7flo\r")
        seen = read_until(terminal, b"lo?[2J?lo")
        assert b"\x1b[2J" not in seen
        os.write(terminal, b"\x03")
        read_until(terminal, b"[cancelled]")
        assert is_closed.wait(WAIT_S)
        os.write(terminal, b"again\r")
        seen = read_until(terminal, b"volatile]\r\n> ")
        assert b"done" in seen and b"[turn 1" in seen
        os.write(terminal, b"\x03")
        _, status = os.waitpid(pid, 0)
        pid = 0
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT
        assert [body["messages"][0]["content"] for _, _, body in server.requests] == [
            "hello", "again"]
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)
