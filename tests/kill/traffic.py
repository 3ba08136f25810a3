"""Clients that hold conversations until the server dies, and that remember what they were told."""
import http.client
import random
import threading
import time

import serving

WORDS = ("Oslo Lima Kyoto Riga red blue teal piano harp chess tea milk bread Monday May Ada Wei zorba kelun "
         "vimato 17 4096 äöü 東京 🦊").split()
SENTENCES = ("My name is {}.", "I live in {}.", "I like {} and {}.", "Where do I live?", "What is my name?",
             "Remember {}, {} and {}.", "{}!", "What did I say about {}?")


def sentence(r):
    text = " ".join(r.choice(SENTENCES) for _ in range(r.choice((1, 1, 2, 3))))
    while "{}" in text:
        text = text.replace("{}", r.choice(WORDS), 1)
    if r.random() < 0.1:  # long enough for several chunks of prefill and several blocks
        text += " " + " ".join(r.choice(WORDS) for _ in range(r.randrange(40, 160)))
    return text


class Turn:
    """What was sent, and in `answer` what came back."""

    def __init__(self, r, tokens_max=14):
        self.messages = [{"role": "user", "content": sentence(r)}]
        if r.random() < 0.1:
            self.messages.append({"role": "user", "content": sentence(r)})
        self.fields = {"max_tokens": r.randrange(1, tokens_max), "stream": r.random() < 0.7}
        if r.random() < 0.3:
            self.fields["conversation_durability"] = "state"
        self.answer = serving.Answer()

    def body(self, conversation, expected_turn):
        return serving.turn_body(conversation, "", messages=self.messages, conversation_expected_turn=expected_turn,
                                 **self.fields)

    def again(self):
        """The same request, with an answer of its own."""
        copy = Turn.__new__(Turn)
        copy.messages, copy.fields, copy.answer = self.messages, self.fields, serving.Answer()
        return copy


class Conversation:
    """The client's knowledge: turns that are committed for certain, and at most one that may be."""

    def __init__(self, name):
        self.name = name
        self.deletions = 0     # what was deleted before under this name
        self.is_deleting = False  # a deletion is in flight
        self.in_flight = None
        self.begin()

    def begin(self):
        self.turns = []
        self.durable_turn = 0  # the newest whose state is known to be on disk

    @property
    def oracle_name(self):
        return f"{self.name} after {self.deletions} deletions"

    def acknowledge(self, turn):
        tern = turn.answer.tern
        self.turns.append(turn)
        if tern["turn"] != len(self.turns):
            raise serving.Failure(f"{self.name}: acknowledged as turn {tern['turn']}, expected {len(self.turns)}")
        if turn.fields.get("conversation_durability") == "state" and tern["durability"] != "durable":
            raise serving.Failure(f"{self.name} turn {len(self.turns)}: durability \"state\" was answered with "
                                  f"{tern['durability']}")
        if tern["durability"] == "durable":
            self.durable_turn = len(self.turns)

    def send(self, server, turn):
        """True: acknowledged. False: the connection was lost, and the turn is in flight."""
        self.in_flight = turn
        serving.chat(server, turn.body(self.name, len(self.turns)), answer=turn.answer)
        if turn.answer.error:
            raise serving.Failure(f"{self.name} turn {len(self.turns) + 1}: status {turn.answer.status}, "
                                  f"{turn.answer.error}")
        if not turn.answer.is_acknowledged:
            return False
        self.acknowledge(turn)
        self.in_flight = None
        return True

    def settle_deletion(self, is_gone):
        self.is_deleting = False
        if is_gone:
            self.deletions += 1
            self.begin()

    def delete(self, server):
        """As send."""
        self.is_deleting = True
        try:
            status = server.delete(self.name)
        except (OSError, http.client.HTTPException):
            return False
        if status != 200:
            raise serving.Failure(f"{self.name} of {len(self.turns)} turns: DELETE says {status}")
        self.settle_deletion(is_gone=True)
        return True


class Clients:
    """One thread for each list of conversations; TURNS_MAX for each thread, or no limit."""

    def __init__(self, server, shares, seed, turns_max=None, deletion_share=0.0):
        self.server = server
        self.deletion_share = deletion_share
        self.failures = []
        self.is_stopping = False
        self.threads = [threading.Thread(target=self._run, daemon=True, args=(share, random.Random(f"{seed}/{i}"),
                                                                              turns_max))
                        for i, share in enumerate(shares)]
        for thread in self.threads:
            thread.start()

    def _run(self, share, r, turns_max):
        count = 0
        try:
            while not self.is_stopping and (turns_max is None or count < turns_max):
                one = share[count % len(share)]
                is_deletion = r.random() < self.deletion_share and one.turns
                if not (one.delete(self.server) if is_deletion else one.send(self.server, Turn(r))):
                    return
                count += 1
        except serving.Failure as failure:
            self.failures.append(str(failure))
        except Exception as error:  # a thread's end must not pass for success
            self.failures.append(f"{type(error).__name__}: {error}")

    def join(self, timeout_s=60):
        """Until all threads have ended."""
        until = time.monotonic() + timeout_s
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                raise serving.Failure("a client still waits for its answer")
        if self.failures:
            raise serving.Failure("; ".join(self.failures))

    def stop(self):
        self.is_stopping = True
