"""`tern verify` over the store of a real server: clean, under traffic, damaged."""
import json
import os
import pathlib
import subprocess
import threading
import time

import serving

TERN = os.environ.get("TERN", str(serving.ROOT / "build" / "release" / "tern"))
FLAGS = ("--disk", "24M", "--ledger-reserve", "1M", "--threads", "1")
PAGE = 4096


def verified(store, status, *options):
    ran = subprocess.run([TERN, "verify", "--store", str(store), "--json", *options], capture_output=True, text=True,
                         timeout=120, check=False)
    assert ran.returncode == status, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


class Client(threading.Thread):
    """Conversations of a few turns each, the older ones deleted, until told to stop."""

    def __init__(self, server, name):
        super().__init__()
        self.server, self.name, self.is_stopped, self.turns, self.failure = server, name, False, 0, None

    def run(self):
        try:
            while not self.is_stopped:
                number = self.turns // 3
                text = "Tell me more about it, please. " * (1 + self.turns % 7)
                serving.chat(self.server, serving.turn_body(f"{self.name}-{number}", text, max_tokens=8)).expect("turn")
                self.turns += 1
                if self.turns % 9 == 0:
                    self.server.delete(f"{self.name}-{number - 1}")
        except Exception as failure:  # pylint: disable=broad-except
            self.failure = failure


def test_no_findings_beside_a_server_under_traffic(tmp_path):
    store = tmp_path / "store"
    with serving.Server(TERN, store, *FLAGS) as server:
        clients = [Client(server, name) for name in ("a", "b")]
        for client in clients:
            client.start()
        try:
            seen = []
            for _ in range(8):
                time.sleep(0.3)
                seen.append(verified(store, 0))
        finally:
            for client in clients:
                client.is_stopped = True
            for client in clients:
                client.join()
        assert all(client.failure is None and client.turns > 9 for client in clients), [c.failure for c in clients]
        assert all(one["findings"] == [] for one in seen)
        assert seen[-1]["summary"]["turns"] > seen[0]["summary"]["turns"]
        assert seen[-1]["summary"]["objects"] > 0
        server.drain()
    after = verified(store, 0)
    assert after["summary"]["conversations"] > 2 and after["summary"]["findings"] == 0


def damage(path, needle, offset):
    """Flips a bit OFFSET bytes behind NEEDLE, at each place where it lies."""
    content = bytearray(pathlib.Path(path).read_bytes())
    places = []
    at = content.find(needle)
    while at >= 0:
        places.append(at)
        content[at + offset] ^= 1
        at = content.find(needle, at + len(needle))
    assert places
    pathlib.Path(path).write_bytes(content)


def test_damage_is_named_with_its_conversation(tmp_path):
    store = tmp_path / "store"
    said = {"one": "The first one plays the cello in Oslo.", "other": "The other one breeds bees in Graz."}
    with serving.Server(TERN, store, *FLAGS) as server:
        for name, text in said.items():
            body = serving.turn_body(name, text, max_tokens=4, conversation_durability="state")
            serving.chat(server, body).expect(name)
        server.drain()
    verified(store, 0)
    sound = (store / "state" / "data.mdb").read_bytes()
    damage(store / "state" / "data.mdb", b"TNOB", 200)  # every object
    found = verified(store, 1)
    assert {(one["environment"], one["record"], one["verdict"]) for one in found["findings"]} == {
        ("state", "object", "damaged")}
    assert {one["conversation"] for one in found["findings"]} == set(said)
    assert all(one["conversation"] == "one" for one in verified(store, 1, "--conversation", "one")["findings"])
    (store / "state" / "data.mdb").write_bytes(sound)
    damage(store / "ledger" / "data.mdb", said["other"].encode(), 3)
    (one,) = verified(store, 1)["findings"]
    assert (one["environment"], one["record"], one["verdict"]) == ("ledger", "turn", "damaged")
    assert (one["conversation"], one["turn"]) == ("other", 1)
    verified(store, 0, "--conversation", "one")
