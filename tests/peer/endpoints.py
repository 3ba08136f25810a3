"""The two servers, and a conversation with each: the same messages, by each one's own API.

The peer is sent the whole history with every request and finds the common prefix in its cache; tern
is sent what is new and the conversation's id. Both say what they reused, and what they say is checked.
"""
import json
import subprocess
import time
import urllib.parse
import uuid

import chat_stream
from chat_stream import Failure

HEALTH_S = 120  # to load a model


class Endpoint:
    """A running server. RESTART, if there is one, stops it and starts it again."""

    def __init__(self, url, restart=None):
        self.url = url.rstrip("/")
        self.restart_server = restart

    def is_healthy(self):
        try:
            return chat_stream.call(self.url, "GET", "/health", timeout_s=10)[0] == 200
        except Failure:
            return False

    def wait_healthy(self):
        until = time.monotonic() + HEALTH_S
        while not self.is_healthy():
            if time.monotonic() > until:
                raise Failure(f"{self.url}/health is not 200 after {HEALTH_S} s")
            time.sleep(0.05)

    def restart(self):
        if self.restart_server is None:
            raise Failure(f"no command restarts {self.name}")
        self.restart_server()
        self.wait_healthy()

    def ask(self, method, path, body=None):
        status, data = chat_stream.call(self.url, method, path, body)
        if status != 200:
            raise Failure(f"{method} {self.url}{path}: status {status}: {data[:300].decode(errors='replace')}")
        return json.loads(data) if data else None


def shell_restart(command):
    """A function that runs COMMAND, or None without one."""
    if not command:
        return None

    def run():
        done = subprocess.run(command, shell=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise Failure(f"{command}: exit status {done.returncode}")

    return run


class Peer(Endpoint):
    name = "llama.cpp"

    def converse(self, slot=None):
        return PeerConversation(self, slot)

    def slot_count(self):
        """None: it does not say."""
        status, data = chat_stream.call(self.url, "GET", "/props")
        return json.loads(data).get("total_slots") if status == 200 else None

    def move_slot(self, action, slot, file):
        """Saves or restores a slot; the answer, and the time it took."""
        started = chat_stream.now()
        answer = self.ask("POST", f"/slots/{slot}?action={action}", {"filename": file})
        return answer, chat_stream.now() - started


class PeerConversation:
    """SLOT: the one that is to serve it; None: the server chooses."""

    def __init__(self, peer, slot=None):
        self.peer = peer
        self.slot = slot
        self.messages = []
        self.context_tokens = 0  # after the last answer

    def say(self, text, max_tokens, is_kept=True):
        """Without IS_KEPT the conversation stays as it was."""
        messages = self.messages + [{"role": "user", "content": text}]
        body = {"messages": messages, "cache_prompt": True}
        if self.slot is not None:
            body["id_slot"] = self.slot
        reply = chat_stream.stream_chat(self.peer.url, body, max_tokens)
        if reply.timings is None:
            raise Failure(f"{self.peer.url}: no 'timings' in the answer: this is no llama.cpp server")
        if is_kept:
            self.messages = messages + [{"role": "assistant", "content": reply.text}]
            self.context_tokens = reply.context_tokens
        return reply

    def say_warm(self, text, max_tokens, is_kept=True):
        """As say, for a history that is in the server's cache."""
        before = self.context_tokens
        reply = self.say(text, max_tokens, is_kept)
        if reply.timings.get("cache_n", 0) < 0.9 * before:
            raise Failure(f"the peer reused {reply.timings.get('cache_n', 0)} of {before} tokens of history; expected "
                          "nearly all")
        return reply

    def say_cold(self, text, max_tokens, is_kept=True):
        """As say, for a history of which the server has nothing."""
        reply = self.say(text, max_tokens, is_kept)
        if reply.timings.get("cache_n", 0) > 0.1 * reply.usage["prompt_tokens"]:
            raise Failure(f"the peer reused {reply.timings['cache_n']} of {reply.usage['prompt_tokens']} tokens right "
                          "after a restart; expected none")
        return reply

    def end(self):
        """The peer has no such request."""


class Tern(Endpoint):
    name = "tern"

    def converse(self):
        return TernConversation(self)

    def metrics(self):
        status, data = chat_stream.call(self.url, "GET", "/metrics")
        if status != 200:
            raise Failure(f"{self.url}/metrics: status {status}")
        lines = (line.rsplit(" ", 1) for line in data.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}


class TernConversation:
    def __init__(self, tern):
        self.tern = tern
        self.id = f"bench-{uuid.uuid4()}"
        self.turn = 0
        self.context_tokens = 0

    def say(self, text, max_tokens, tiers=("device", "host", "disk"), is_durable=False):
        """TIERS: where the state of an earlier turn may come from. IS_DURABLE: ends when the new one is on disk."""
        body = {"messages": [{"role": "user", "content": text}], "conversation_id": self.id,
                "conversation_expected_turn": self.turn}
        if is_durable:
            body["conversation_durability"] = "state"
        reply = chat_stream.stream_chat(self.tern.url, body, max_tokens)
        if reply.tern is None:
            raise Failure(f"{self.tern.url}: no 'tern' in the answer: this is no tern server")
        self.check(reply, tiers)
        if is_durable and reply.tern["durability"] != "durable":
            raise Failure(f"tern: durability {reply.tern['durability']!r}, asked for 'durable'")
        self.turn += 1
        self.context_tokens = reply.context_tokens
        return reply

    def check(self, reply, tiers):
        tern = reply.tern
        if tern["turn"] != self.turn + 1:
            raise Failure(f"tern: this was turn {tern['turn']}, expected {self.turn + 1}")
        if self.turn == 0:
            return
        if tern["rebuilt"]:
            raise Failure(f"tern: turn {tern['turn']} was rebuilt: {tern['reason']}")
        if tern["tier"] not in tiers:
            raise Failure(f"tern: turn {tern['turn']} came from {tern['tier']!r}, expected {' or '.join(tiers)}")
        # All but the last sampled token, which no step has run yet.
        if tern["tokens_reused"] < self.context_tokens - 1:
            raise Failure(f"tern: turn {tern['turn']} reused {tern['tokens_reused']} tokens of "
                          f"{self.context_tokens}; expected all but the last")

    def end(self):
        self.tern.ask("DELETE", "/v1/conversations/" + urllib.parse.quote(self.id, safe=""))
