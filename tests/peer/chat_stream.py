"""One streamed chat completion, and when each part of it reached the client.

Times are seconds of one monotonic clock. A reply that is not whole, or not what was asked for, is a
Failure: a benchmark must not measure something else.
"""
import http.client
import json
import time
import urllib.parse

TIMEOUT_S = 600  # a peer that runs a long history again, behind others that do so too


class Failure(Exception):
    """What ends a run."""


def now():
    return time.perf_counter()


def connect(url, timeout_s=TIMEOUT_S):
    parts = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s)


def call(url, method, path, body=None, timeout_s=TIMEOUT_S):
    """(status, bytes) of a plain request."""
    connection = connect(url, timeout_s)
    try:
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as lost:
        raise Failure(f"{method} {url}{path}: {type(lost).__name__}: {lost}") from None
    finally:
        connection.close()


class Reply:
    """What came of one request."""

    def __init__(self):
        self.started = None     # when it was sent
        self.text = ""
        self.text_times = []    # of each chunk with text
        self.final_time = None  # of the chunk with finish_reason
        self.done_time = None   # of [DONE]
        self.finish = None
        self.usage = None
        self.tern = None        # tern's account of the turn
        self.timings = None     # llama.cpp's

    @property
    def first_text_s(self):
        return self.text_times[0] - self.started

    @property
    def total_s(self):
        return self.done_time - self.started

    @property
    def commit_s(self):
        """From the last text to the end of the answer, which stands behind the commit."""
        return self.final_time - self.text_times[-1]

    @property
    def context_tokens(self):
        return self.usage["prompt_tokens"] + self.usage["completion_tokens"]

    def summary(self):
        """For the raw figures."""
        kept = {"first_text_s": self.first_text_s, "total_s": self.total_s,
                "prompt_tokens": self.usage["prompt_tokens"], "completion_tokens": self.usage["completion_tokens"]}
        if self.tern:
            names = ("tier", "tokens_reused", "tokens_run", "bytes_read", "promote_ms", "prefill_ms", "decode_ms")
            kept.update((name, self.tern[name]) for name in names if name in self.tern)
        if self.timings:
            kept.update((name, self.timings[name]) for name in ("cache_n", "prompt_n", "prompt_ms", "predicted_ms")
                        if name in self.timings)
        return kept


def take_chunk(reply, chunk):
    if "error" in chunk:
        raise Failure(f"an error in the stream: {chunk['error']}")
    for choice in chunk.get("choices", ()):
        text = choice.get("delta", {}).get("content")
        if text:
            reply.text_times.append(now())
            reply.text += text
        if choice.get("finish_reason"):
            reply.finish = choice["finish_reason"]
            reply.final_time = now()
    for name in ("usage", "tern", "timings"):
        if chunk.get(name):
            setattr(reply, name, chunk[name])


def read_events(reply, response):
    for line in response:
        if not line.startswith(b"data: "):
            continue
        data = line[6:].strip()
        if data == b"[DONE]":
            reply.done_time = now()
            return
        take_chunk(reply, json.loads(data))
    raise Failure("the stream ended early")


def check_reply(reply, max_tokens):
    if not reply.text_times:
        raise Failure("an answer without text")
    if reply.usage is None:
        raise Failure("an answer without usage")
    generated = reply.usage["completion_tokens"]
    if reply.finish != "length" or generated != max_tokens:
        raise Failure(f"an answer of {generated} tokens that ended by {reply.finish!r}; expected {max_tokens} tokens "
                      "and 'length'")


def stream_chat(url, body, max_tokens):
    """A Reply of exactly MAX_TOKENS tokens."""
    body = dict(body, stream=True, stream_options={"include_usage": True}, temperature=0, ignore_eos=True,
                max_tokens=max_tokens)
    data = json.dumps(body).encode()
    reply = Reply()
    connection = connect(url)
    try:
        connection.connect()
        reply.started = now()
        connection.request("POST", "/v1/chat/completions", body=data, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise Failure(f"status {response.status}: {response.read()[:500].decode(errors='replace')}")
        read_events(reply, response)
        check_reply(reply, max_tokens)
    except (OSError, http.client.HTTPException, ValueError) as lost:
        raise Failure(f"{url}: {type(lost).__name__}: {lost}") from None
    except Failure as failure:
        raise Failure(f"{url}: {failure}") from None
    finally:
        connection.close()
    return reply
