"""Connections, limits and the end: the HTTP layer from outside, over scripted turns (fake_turn.h)."""

import json
import signal
import socket
import struct
import threading
import time

import httpx
import pytest

from fake_server import (PATIENCE_S, FakeServer, Reader, ask, body_of, client_of,
                         error_of, events_of, messages, post, post_json, read_to_end)

NOTICED_S = 5  # "at once", on a machine that is busy with other tests


# --- clients that go away ----------------------------------------------------------------------


def leave(connection, how):
    if how == 'close':
        connection.close()
    elif how == 'half':
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        connection.close()


@pytest.mark.parametrize('how', ['close', 'half', 'reset'])
@pytest.mark.parametrize('stream', [False, True])
def test_vanishing_client_is_noticed_at_once(server, how, stream):
    for script, stage in (('wait', 'queued'), ('start\nwait', 'started'),
                          ('text some\nwait', 'started')):
        connection = server.connect()
        connection.sendall(post(body_of(script, stream=stream)))
        server.expect('submitted')
        if stream and stage == 'started':
            Reader(connection).head()
        else:
            time.sleep(0.1)
        leave(connection, how)
        server.expect('cancelled ' + stage, NOTICED_S)
        server.expect('ended', NOTICED_S)
        connection.close()


@pytest.mark.parametrize('how', ['close', 'half', 'reset'])
def test_client_that_vanishes_with_requests_behind_is_noticed(server, how):
    """Its end lies behind bytes that wait for the present request."""
    for size in (100000, 3000000):
        connection = server.connect()
        connection.sendall(post(body_of('wait')))
        server.expect('submitted')
        connection.sendall(post(body_of('text never'), extra=f'Padding: {"x" * 1000}\r\n') *
                           (size // 1000))
        leave(connection, how)
        server.expect('cancelled queued', NOTICED_S)
        server.expect('ended', NOTICED_S)
        connection.close()


def test_client_that_vanishes_before_a_front_thread_is_free_submits_nothing(started):
    server = started(front_threads=1)
    # The delay holds nothing up: turns run on threads of their own. What is asked for is that
    # nothing is left behind, however the two race.
    for _ in range(50):
        connection = server.connect()
        connection.sendall(post(body_of('wait')))
        connection.close()
    post_json(server, messages('text last'))
    seen = []
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        while not server.events.empty():
            seen.append(server.events.get())
        if seen.count('submitted') == seen.count('ended'):
            break
        time.sleep(0.05)
    assert seen.count('submitted') == seen.count('ended')
    cancelled = sum(event.startswith('cancelled') for event in seen)
    assert cancelled == seen.count('submitted') - 1


def test_turn_that_is_past_cancelling_ends_without_its_client(server):
    connection = server.connect()
    connection.sendall(post(body_of('start\nstubborn 300\ntext late\nfinish stop', stream=True)))
    Reader(connection).head()
    connection.close()
    server.expect('submitted')
    server.expect('cancelled started', NOTICED_S)
    server.expect('ended')
    assert httpx.get(server.url + '/health').status_code == 200


def test_slow_reader_is_bounded_and_cancelled(started):
    server = started(output_max=1 << 20)
    before = server.memory_kib()
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        piece = 'x' * 1000
        connection.sendall(post(body_of(f'repeat 200000 {piece}', stream=True)))
        server.expect('submitted')
        server.expect('cancelled repeat')
        server.expect('ended')
        assert server.memory_kib() - before < 64 << 10
        connection.settimeout(1)
        received = b''
        try:
            while piece := connection.recv(1 << 20):
                received = received[-100:] + piece
        except OSError:
            pass
        assert b'[DONE]' not in received
    assert httpx.get(server.url + '/health').status_code == 200


def test_reader_that_never_reads_is_closed_in_time(started):
    server = started(stall_ms=500, output_max=64 << 20)
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(post(body_of('repeat 20000 ' + 'x' * 1000 + '\nwait', stream=True)))
        server.expect('submitted')
        found = server.events.get(timeout=PATIENCE_S)
        assert found.startswith('cancelled')


def test_slow_but_steady_reader_gets_everything(started):
    server = started(output_max=64 << 20)
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(post(body_of('repeat 3000 ' + 'y' * 1000, stream=True)))
        time.sleep(0.3)
        events = events_of(Reader(connection).answer()[2])
    text = ''.join(event['choices'][0]['delta'].get('content', '') for _, event in events[:-1])
    assert text == 'y' * 3000000 and events[-1][1] == '[DONE]'


def test_unstreamed_answer_has_a_bound(started):
    server = started(output_max=100000)
    answer = post_json(server, messages('repeat 100000 ' + 'z' * 100))
    assert answer.status_code == 500
    assert httpx.get(server.url + '/health').status_code == 200


# --- HTTP ---------------------------------------------------------------------------------


def test_keep_alive_serves_one_after_the_other(server):
    with server.connect() as connection:
        reader = Reader(connection)
        for i in range(5):
            connection.sendall(post(body_of(f'text {i}', stream=i % 2 == 1)))
            status, _, body = reader.answer()
            assert status == 200 and str(i).encode() in body


def test_pipelined_requests_are_answered_in_order(server):
    with server.connect() as connection:
        scripts = ['sleep 100\ntext first', 'text second', 'fail 404 gone', 'text fourth']
        connection.sendall(b''.join(post(body_of(script)) for script in scripts) +
                           b'GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n')
        reader = Reader(connection)
        answers = [reader.answer() for _ in range(5)]
    assert [status for status, _, _ in answers] == [200, 200, 404, 200, 200]
    for (_, _, body), word in zip(answers, [b'first', b'second', b'gone', b'fourth', b'list']):
        assert word in body


def test_large_pipelined_requests_wait_their_turn(server):
    padding = 'p' * 300000
    with server.connect() as connection:
        requests = b''.join(post(body_of(f'sleep 50\ntext {i}', padding=padding))
                            for i in range(3))
        sender = threading.Thread(target=connection.sendall, args=(requests,))
        sender.start()
        reader = Reader(connection)
        for i in range(3):
            status, _, body = reader.answer()
            assert status == 200
            assert json.loads(body)['choices'][0]['message']['content'] == str(i)
        sender.join()


def test_too_many_pipelined_bytes_end_the_connection_with_the_answer(server):
    with server.connect() as connection:
        connection.sendall(post(body_of('sleep 500\ntext first')))
        try:
            connection.sendall(post(body_of('text next', padding='x' * 4000000)))
        except OSError:
            pass
        status, fields, body = Reader(connection).answer()
        assert status == 200 and b'first' in body and fields['connection'] == 'close'
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection) == b''
    server.expect('submitted')
    server.expect('ended')
    assert server.events.empty()


def test_bytes_one_by_one(server):
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(body_of('text slow')):
            connection.sendall(bytes([byte]))
        assert b'slow' in Reader(connection).answer()[2]


def chunked(body, sizes):
    out = b''
    for size in sizes:
        piece, body = body[:size], body[size:]
        if piece:
            out += f'{len(piece):X};extension="x"\r\n'.encode() + piece + b'\r\n'
    return out + b'0\r\nTrailer: yes\r\n\r\n'


def test_chunked_bodies(server):
    head = (b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n')
    with server.connect() as connection:
        reader = Reader(connection)
        for sizes in ([1] * 200, [3, 1000], [1000]):
            connection.sendall(head + chunked(body_of('text chunked'), sizes))
            status, _, body = reader.answer()
            assert status == 200 and b'chunked' in body


def test_expect_continue(server):
    body = body_of('text patient')
    with server.connect() as connection:
        request = post(body, extra='Expect: 100-continue\r\n')
        connection.sendall(request[:-len(body)])
        received = b''
        while not received.endswith(b'\r\n\r\n'):
            received += connection.recv(1000)
        assert received == b'HTTP/1.1 100 Continue\r\n\r\n'
        connection.sendall(body)
        assert b'patient' in Reader(connection).answer()[2]
    with server.connect() as connection:  # refused without the body being asked for
        connection.sendall(b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue'
                           b'\r\nContent-Length: 99999999999\r\n\r\n')
        assert Reader(connection).answer()[0] == 413


def test_too_large_a_body_is_413(started):
    server = started(body_max=100000)
    answer = post_json(server, {**messages(), 'padding': 'x' * 200000})
    assert answer.status_code == 413 and error_of(answer)['code'] == 'request_too_large'
    answer = httpx.post(server.url + '/v1/chat/completions', timeout=PATIENCE_S,
                        content=(b'x' * 5000 for _ in range(400)))
    assert answer.status_code == 413
    exact = body_of('text fits', padding='')
    exact = body_of('text fits', padding='x' * (100000 - len(exact)))
    assert len(exact) == 100000
    assert httpx.post(server.url + '/v1/chat/completions', content=exact).status_code == 200
    assert httpx.post(server.url + '/v1/chat/completions', content=exact + b' ').status_code == 413


def test_default_bound_of_a_body_is_sixteen_mebibytes(server):
    padding = 'x' * ((16 << 20) - len(body_of('text big', padding='')))
    assert httpx.post(server.url + '/v1/chat/completions', timeout=PATIENCE_S,
                      content=body_of('text big', padding=padding)).status_code == 200
    answer = httpx.post(server.url + '/v1/chat/completions', timeout=PATIENCE_S,
                        content=body_of('text big', padding=padding + 'x'))
    assert answer.status_code == 413


def test_all_bodies_together_have_a_bound(started):
    server = started(bodies_max=450000)
    part = post(body_of('text big', padding='x' * 200000))
    with server.connect() as first:
        first.sendall(part[:-10])
        time.sleep(0.2)
        with server.connect() as second:
            second.sendall(part)
            status, fields, _ = Reader(second).answer()
            assert status == 503 and 'retry-after' in fields
        first.sendall(part[-10:])
        assert Reader(first).answer()[0] == 200


GET = b'GET /v1/models HTTP/1.1\r\n'
POST = b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n'
MALFORMED_HTTP = [
    (b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n', 400),
    (b'GET\r\n\r\n', 400),
    (b'GET /\r\n\r\n', 400),
    (b'GET  / HTTP/1.1\r\nHost: x\r\n\r\n', 400),
    (b'GET / HTTP/1.1 \r\nHost: x\r\n\r\n', 400),
    (b'GET / HTTP/2.0\r\nHost: x\r\n\r\n', 505),
    (b'GET / HTTP/1.10\r\nHost: x\r\n\r\n', 505),
    (b'GET / FTP/1.1\r\nHost: x\r\n\r\n', 400),
    (b'G(T / HTTP/1.1\r\nHost: x\r\n\r\n', 400),
    (b'GET models HTTP/1.1\r\nHost: x\r\n\r\n', 400),
    (b'GET /\xc3\xbc HTTP/1.1\r\nHost: x\r\n\r\n', 400),
    (GET + b'\r\n', 400),
    (GET + b'Host: x\r\nHost: y\r\n\r\n', 400),
    (GET + b'Host : x\r\n\r\n', 400),
    (GET + b'Host: x\r\n folded: y\r\n\r\n', 400),
    (GET + b'Host: x\r\nnocolon\r\n\r\n', 400),
    (GET + b'Host: x\r\n: y\r\n\r\n', 400),
    (GET + b'Host: x\r\nA: b\0c\r\n\r\n', 400),
    (GET + b'Host: x\r\nA: b\rc\r\n\r\n', 400),
    (GET + b'Host: x\nA: b\r\n\r\n', 400),
    (b'GET /v1/models HTTP/1.1\nHost: x\n\n', 400),
    (GET + b'Host: x\r\n' + b'A: b\r\n' * 200 + b'\r\n', 431),
    (GET + b'Host: ' + b'x' * 40000, 431),
    (b'GET /' + b'x' * 40000, 431),
    (POST + b'Content-Length: -1\r\n\r\n', 400),
    (POST + b'Content-Length: +5\r\n\r\n', 400),
    (POST + b'Content-Length: 5, 5\r\n\r\n', 400),
    (POST + b'Content-Length: 0x5\r\n\r\n', 400),
    (POST + b'Content-Length: \r\n\r\n', 400),
    (POST + b'Content-Length: 99999999999999999999999\r\n\r\n', 400),
    (POST + b'Content-Length: 5\r\nContent-Length: 6\r\n\r\n', 400),
    (POST + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n', 400),
    (POST + b'Transfer-Encoding: gzip\r\n\r\n', 501),
    (POST + b'Transfer-Encoding: chunked, chunked\r\n\r\n', 501),
    (b'POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n', 400),
    (POST + b'Transfer-Encoding: chunked\r\n\r\nxyz\r\n', 400),
    (POST + b'Transfer-Encoding: chunked\r\n\r\n\r\n', 400),
    (POST + b'Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n', 400),
    (POST + b'Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n', 400),
    (POST + b'Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n', 400),
    (POST + b'Transfer-Encoding: chunked\r\n\r\nfffffffffff\r\n', 413),
    (POST + b'Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n', 413),
    (POST + b'Transfer-Encoding: chunked\r\n\r\n5;' + b'x' * 1000 + b'\r\n', 400),
    (POST + b'Transfer-Encoding: chunked\r\n\r\n0\r\n' + b'A: b\r\n' * 5000, 431),
    (POST + b'Expect: something\r\n\r\n', 417),
]


def test_malformed_http_is_refused_and_closed(server):
    for request, status in MALFORMED_HTTP:
        with server.connect() as connection:
            connection.sendall(request)
            reader = Reader(connection)
            found, fields, body = reader.answer()
            assert found == status, (request[:80], found, body)
            assert fields['connection'] == 'close'
            assert json.loads(body)['error']['message']
            connection.shutdown(socket.SHUT_WR)
            assert read_to_end(connection) == b''


def test_refusal_before_the_body_reads_the_rest_over(server):
    answer = server.exchange(b'POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n' +
                             b'x' * 3000000)
    assert answer.startswith(b'HTTP/1.1 404 ') and b'Connection: close' in answer


def test_http_1_0(server):
    answer = server.exchange(b'GET /v1/models HTTP/1.0\r\n\r\n')
    assert answer.startswith(b'HTTP/1.1 200 OK\r\n') and b'Connection: close' in answer
    body = body_of('text old', stream=True)
    answer = server.exchange(b'POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n' %
                             len(body) + body)
    assert b'chunked' not in answer and answer.endswith(b'data: [DONE]\n\n')
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(b'GET /v1/models HTTP/1.0\r\nConnection: keep-alive\r\n\r\n')
        reader = Reader(connection)
        assert reader.answer()[1]['connection'] == 'keep-alive'
        assert reader.answer()[0] == 200


def test_slow_requests_time_out(started):
    server = started(head_ms=300, body_ms=300, idle_ms=300)
    for part in (b'GET /v1/mod', GET + b'Host: x\r\n', post(body_of('text x'))[:-5]):
        with server.connect() as connection:
            connection.sendall(part)
            assert Reader(connection).answer()[0] == 408
            connection.shutdown(socket.SHUT_WR)
            assert read_to_end(connection) == b''
    with server.connect() as connection:  # nothing was asked, nothing is answered
        assert read_to_end(connection) == b''
    with server.connect() as connection:  # a waiting request is not idle
        connection.sendall(post(body_of('sleep 1000\ntext late')))
        assert b'late' in Reader(connection).answer()[2]


def test_stream_gets_comments_while_nothing_is_sent(started):
    server = started(comment_ms=100)
    script = 'start\nsleep 700\ntext a\nsleep 300\nfinish stop'
    answer = post_json(server, {**messages(script), 'stream': True})
    assert answer.text.count(': keep-alive\n\n') >= 4
    assert events_of(answer.content)[-1][1] == '[DONE]'
    with client_of(server) as client:
        stream = ask(client, script, stream=True)
        assert ''.join(c.choices[0].delta.content or '' for c in stream) == 'a'
    quick = post_json(server, {**messages('repeat 300 x'), 'stream': True})
    assert ': keep-alive' not in quick.text
    unstreamed = post_json(server, messages('sleep 400\ntext b'))
    assert unstreamed.json()['choices'][0]['message']['content'] == 'b'


def test_connections_have_a_bound_and_idle_ones_make_room(started):
    server = started(connections_max=4)
    idle = [server.connect() for _ in range(3)]
    for connection in idle:
        connection.sendall(GET + b'Host: x\r\n\r\n')
        assert Reader(connection).answer()[0] == 200
    busy = [server.connect() for _ in range(4)]  # push the idle ones out
    for connection in busy:
        connection.sendall(post(body_of('wait')))
        server.expect('submitted')
    for connection in idle:
        assert read_to_end(connection) == b''
        connection.close()
    with server.connect() as connection:
        assert read_to_end(connection).startswith(b'HTTP/1.1 503 ')
    for connection in busy:
        connection.close()
    for _ in range(8):
        server.events.get(timeout=PATIENCE_S)
    assert httpx.get(server.url + '/health').status_code == 200


# --- many at once -------------------------------------------------------------------------


def test_many_parallel_clients_get_their_own_answers(server):
    post_json(server, messages())
    descriptors = server.descriptors()
    failures = []

    def converse(number):
        try:
            with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
                for turn in range(6):
                    stream = (number + turn) % 2 == 0
                    fields = {**messages(f'numbers 40\ntext mark-{number}-{turn}'),
                              'stream': stream}
                    answer = client.post('/v1/chat/completions', json=fields)
                    if stream:
                        text = ''.join(event['choices'][0]['delta'].get('content', '')
                                       for _, event in events_of(answer.content)[:-1])
                    else:
                        text = answer.json()['choices'][0]['message']['content']
                    expected = ''.join(f'{i} ' for i in range(40)) + f'mark-{number}-{turn}'
                    assert text == expected, (text, expected)
        except Exception as failure:  # told by the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=converse, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    end = time.monotonic() + PATIENCE_S
    while (server.descriptors() > descriptors or server.task_count() > 8) and \
            time.monotonic() < end:
        time.sleep(0.05)
    assert server.descriptors() <= descriptors


def test_full_front_queue_is_429(started):
    server = started(front_threads=1, queue_max=1)
    deep = json.dumps({**messages(), 'padding': [0] * 200000}).encode()
    codes = []
    fields = []

    def send():
        answer = httpx.post(server.url + '/v1/chat/completions', content=deep, timeout=PATIENCE_S)
        codes.append(answer.status_code)
        if answer.status_code == 429:
            fields.append((error_of(answer)['code'], answer.headers['retry-after'],
                           answer.headers['retry-after-ms']))

    # Each body keeps the only front thread busy for a while.
    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {200, 429}, codes
    assert set(fields) == {('queue_full', '1', '1000')}


# --- the end ------------------------------------------------------------------------------


def test_drain_lets_running_turns_finish(started):
    server = started()
    with server.connect() as running, server.connect() as other:
        running.sendall(post(body_of('text some\nsleep 1500\ntext more', stream=True)))
        reader = Reader(running)
        assert reader.head()[0] == 200
        server.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + PATIENCE_S
        while httpx.get(server.url + '/health').status_code == 200:
            assert time.monotonic() < end
        refused = post_json(server, messages())
        assert refused.status_code == 503 and 'retry-after' in refused.headers
        assert error_of(refused)['code'] == 'server_stopping'
        assert read_to_end(other) == b''  # idle connections are closed
        body = b''
        while piece := reader.chunk():
            body += piece
        assert b'more' in body and b'[DONE]' in body
    assert server.process.wait(timeout=PATIENCE_S) == 0


def test_drain_cancels_what_takes_too_long():
    server = FakeServer(drain_seconds=1)
    with server.connect() as streamed, server.connect() as plain:
        streamed.sendall(post(body_of('text some\nwait', stream=True)))
        plain.sendall(post(body_of('wait')))
        reader = Reader(streamed)
        reader.head()
        server.expect('submitted')
        server.expect('submitted')
        server.process.send_signal(signal.SIGTERM)
        body = b''
        while piece := reader.chunk():
            body += piece
        events = events_of(body)
        assert events[-1][0] == 'error' and events[-1][1]['error']['code'] == 'server_stopping'
        status, _, body = Reader(plain).answer()
        assert status == 503 and b'server_stopping' in body
    server.stop(expected=3)


def test_second_signal_stops_at_once():
    server = FakeServer()
    with server.connect() as connection:
        connection.sendall(post(body_of('text some\nwait', stream=True)))
        Reader(connection).head()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=NOTICED_S * 2) == 3
    server.stop(expected=3)
