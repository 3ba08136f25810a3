"""The server that never crashes: it is given the turns that the other one has committed, in order.

Greedy answers are a function of the ids before them, so it samples the same ids, and the digests of
its logits are those that the other server must give.
"""
import threading

import serving


class Oracle:
    def __init__(self, tern, directory, flags):
        self.tern = tern
        self.server = serving.Server(tern, directory / "oracle", *flags)
        self.lock = threading.Lock()
        self.answers = {}   # conversation: [Answer] by turn

    def close(self):
        self.server.drain()

    def advance(self, conversation, turns):
        """Answers to all TURNS; those that it has not seen are run now."""
        with self.lock:
            answers = self.answers.setdefault(conversation, [])
        for turn in turns[len(answers):]:
            body = turn.body(conversation, expected_turn=len(answers))
            body.pop("conversation_durability", None)
            body.pop("stream", None)
            body.pop("stream_options", None)
            answers.append(serving.chat(self.server, body).expect("the oracle"))
        return answers

    def ids(self, conversation):
        """[(prompt ids, generated ids)] by turn."""
        turns = serving.inspect_turns(self.tern, self.server.store, conversation)
        return [(turn["prompt_ids"], turn["generated_ids"]) for turn in turns]
