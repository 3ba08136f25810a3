"""A server that answers as llama.cpp's does, of words instead of tokens, and with faults to order."""
import http.server
import json
import pathlib
import threading
import time

TOKEN_S = 0.0005  # of decode
PROMPT_S = 2e-6   # a token of prefill


def tokens_of(messages):
    """Role and words; the last message is followed by the opening of an answer."""
    tokens = []
    for message in messages:
        tokens += [f"<{message['role']}>", *message["content"].split(), "<end>"]
    return tokens + ["<assistant>"]


def common_prefix(one, two):
    count = 0
    while count < min(len(one), len(two)) and one[count] == two[count]:
        count += 1
    return count


class FakePeer:
    """Its answers' words are numbers. FAULT: forget, refuse, break, short, no-timings."""

    def __init__(self, folder, slots=4, port=0):
        self.slots = [[] for _ in range(slots)]
        self.free = threading.Semaphore(slots)
        self.lock = threading.Lock()
        self.folder = pathlib.Path(folder)  # of saved slots
        self.fault = None
        self.on_post = {}  # path: function, for what a test's commands ask
        peer = self

        class Handler(PeerHandler):
            server_state = peer

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.on_post["/restart"] = self.forget_all

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def forget_all(self):
        self.slots = [[] for _ in self.slots]

    def take_slot(self, prompt, wanted):
        """The slot, and how much of PROMPT it holds."""
        with self.lock:
            shared = [common_prefix(prompt[:-1], slot) for slot in self.slots]
            slot = max(range(len(shared)), key=shared.__getitem__) if wanted is None else wanted
            self.slots[slot] = prompt
            return slot, 0 if self.fault == "forget" else shared[slot]


class PeerHandler(http.server.BaseHTTPRequestHandler):
    server_state = None
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/props":
            self.answer(200, {"total_slots": len(self.server_state.slots)})
        else:
            self.answer(200 if self.path == "/health" else 404, {"status": "ok"})

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(data) if data else {}
        peer = self.server_state
        if self.path in peer.on_post:
            peer.on_post[self.path]()
            self.answer(200, {})
        elif self.path.startswith("/slots/"):
            self.move_slot(body)
        elif peer.fault == "refuse":
            self.answer(500, {"error": {"message": "refused to order"}})
        else:
            with peer.free:
                self.chat(body)

    def move_slot(self, body):
        peer = self.server_state
        place, action = self.path[len("/slots/"):].split("?action=")
        if action == "save":
            (peer.folder / body["filename"]).write_text(json.dumps(peer.slots[int(place)]))
            self.answer(200, {"n_saved": len(peer.slots[int(place)])})
        else:
            peer.slots[int(place)] = json.loads((peer.folder / body["filename"]).read_text())
            self.answer(200, {"n_restored": len(peer.slots[int(place)])})

    def chat(self, body):
        peer = self.server_state
        prompt = tokens_of(body["messages"])
        slot, cached = peer.take_slot(prompt, body.get("id_slot"))
        time.sleep(PROMPT_S * (len(prompt) - cached))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.send_delta({"role": "assistant", "content": None})
        count = body["max_tokens"] if peer.fault != "short" else 1
        for number in range(count):
            time.sleep(TOKEN_S)
            self.send_delta({"content": f" {number}"})
            if peer.fault == "break" and number == 2:
                return
        peer.slots[slot] = prompt + [str(number) for number in range(count)][:-1]
        self.send_end(len(prompt), cached, count)

    def send_end(self, prompt, cached, count):
        peer = self.server_state
        timings = {"cache_n": cached, "prompt_n": prompt - cached, "prompt_ms": 1.0, "predicted_ms": 1.0}
        last = {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": count}}
        if peer.fault != "no-timings":
            last["timings"] = timings
        self.send_delta({}, "stop" if peer.fault == "short" else "length")
        self.send_event(json.dumps(last))
        self.send_event("[DONE]")

    def send_delta(self, delta, finish=None):
        self.send_event(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))

    def send_event(self, data):
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()
