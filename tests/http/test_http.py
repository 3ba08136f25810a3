"""The HTTP layer from outside, over a turn service that plays scripts (fake_turn.h)."""

import json
import os
import signal
import socket
import struct
import sys
import threading
import time

import httpx
import openai
import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_server import PATIENCE_S, FakeServer, Reader, body_of, events_of, post, read_to_end  # noqa: E402

NOTICED_S = 5  # "at once", on a machine that is busy with other tests


@pytest.fixture(name='server')
def fixture_server():
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture(name='started')
def fixture_started():
    """A function that starts servers with options and stops them at the end."""
    servers = []

    def begin(**options):
        servers.append(FakeServer(**options))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


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


# --- answers ------------------------------------------------------------------------------


def test_unstreamed_answer_has_openai_shape(server):
    with client_of(server) as client:
        answer = ask(client, 'text Hello\ntext , world')
    assert answer.choices[0].message.content == 'Hello, world'
    assert answer.choices[0].message.role == 'assistant'
    assert answer.choices[0].finish_reason == 'stop'
    assert answer.object == 'chat.completion'
    assert answer.model == 'tern-fake'
    assert answer.id.startswith('chatcmpl-')
    assert abs(answer.created - time.time()) < 120
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 2)
    assert answer.usage.total_tokens == 13
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.tern['turn'] is None
    assert answer.tern['tokens_run'] == 11


def test_tern_object_and_turn_header(server):
    fields = {**messages('text a'), 'conversation_id': 'one', 'logits_digest': True}
    first = post_json(server, fields)
    second = post_json(server, fields)
    assert first.headers['x-tern-turn'] == '1' and second.headers['x-tern-turn'] == '2'
    assert first.headers['x-request-id'].startswith('req_')
    assert first.json()['tern']['created'] is True
    tern = second.json()['tern']
    assert tern == {'turn': 2, 'created': False, 'tier': 'disk', 'num_computed_tokens': 7,
                    'tokens_reused': 7, 'tokens_run': 4, 'bytes_read': 4096, 'promote_ms': 0.5,
                    'prefill_ms': 1.25, 'decode_ms': 2.0, 'durability': 'durable',
                    'rebuilt': False, 'reason': None, 'logits_digest': 'ab' * 32}
    assert second.json()['usage']['prompt_tokens_details']['cached_tokens'] == 7


def test_streamed_answer_has_openai_shape(server):
    with client_of(server) as client:
        stream = ask(client, 'text Hel\ntext lo', stream=True,
                     stream_options={'include_usage': True},
                     extra_body={'conversation_id': 'one'})
        assert stream.response.headers['x-tern-turn'] == '1'
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == 'assistant'
    assert [chunk.choices[0].delta.content for chunk in chunks[:3]] == ['', 'Hel', 'lo']
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == 'chat.completion.chunk' for chunk in chunks)
    last = chunks[3]
    assert last.choices[0].finish_reason == 'stop' and last.choices[0].delta.content is None
    assert last.tern['turn'] == 1
    assert all(chunk.usage is None for chunk in chunks[:4])
    assert chunks[4].choices == [] and chunks[4].usage.total_tokens == 13
    assert len(chunks) == 5


def test_stream_ends_with_done_and_without_usage_by_default(server):
    answer = post_json(server, {**messages('text x'), 'stream': True})
    assert answer.headers['content-type'].startswith('text/event-stream')
    events = events_of(answer.content)
    assert events[-1] == (None, '[DONE]')
    assert all('usage' not in event for _, event in events[:-1])
    assert events[-2][1]['choices'][0]['finish_reason'] == 'stop'


def test_length_is_a_finish_reason(server):
    with client_of(server) as client:
        assert ask(client, 'text a\nfinish length').choices[0].finish_reason == 'length'


def test_unicode_passes_both_ways(server):
    text = 'Grüße 漢字 🙂 "quoted" \\ back\\slash \u2028 \x7f tab\there'
    with client_of(server) as client:
        assert ask(client, 'text ' + text).choices[0].message.content == text
        streamed = ask(client, 'text ' + text, stream=True)
        assert ''.join(c.choices[0].delta.content or '' for c in streamed) == text


def test_fields_arrive(server):
    asked = {'temperature': 0.5, 'top_p': 0.25, 'top_k': 40, 'min_p': 0.125, 'seed': 77,
             'presence_penalty': 1, 'frequency_penalty': -1.5, 'repetition_penalty': 1.25,
             'logit_bias': {'5': 2, '17': -100}, 'stop': ['a', 'b'], 'max_completion_tokens': 9,
             'ignore_eos': True, 'conversation_id': 'c', 'cache_salt': 's',
             'conversation_expected_turn': 0, 'conversation_require_cache': True,
             'conversation_durability': 'state', 'user': 'me', 'something_else': {'a': [1]}}
    seen = json.loads(post_json(server, {**messages('echo'), **asked}).json()
                      ['choices'][0]['message']['content'])
    assert seen == {'tenant': '', 'salt': 's', 'id': 'c', 'messages': 1, 'role': 'user',
                    'expected_turn': 0, 'requires_cache': 1, 'waits_for_state': 1,
                    'ignores_end': 1, 'max_tokens': 9, 'stops': 2, 'temperature': 0.5,
                    'top_p': 0.25, 'top_k': 40, 'min_p': 0.125, 'presence': 1, 'frequency': -1.5,
                    'repetition': 1.25, 'seed': 77, 'biases': 2}


def test_defaults_are_openais_and_seeds_differ(server):
    seen = [json.loads(post_json(server, messages('echo')).json()
                       ['choices'][0]['message']['content']) for _ in range(2)]
    assert seen[0]['temperature'] == 1 and seen[0]['top_p'] == 1 and seen[0]['max_tokens'] == 0
    assert seen[0]['expected_turn'] == -1 and seen[0]['id'] == ''
    assert seen[0]['seed'] != seen[1]['seed']


# --- errors -------------------------------------------------------------------------------


def error_of(answer):
    error = answer.json()['error']
    assert {'message', 'type', 'param', 'code'} <= error.keys()
    assert isinstance(error['message'], str) and error['message']
    return error


WRONG_FIELDS = [
    ({'messages': 'hi'}, 'messages'),
    ({'messages': []}, 'messages'),
    ({'messages': None}, 'messages'),
    ({'messages': ['hi']}, 'messages[0]'),
    ({'messages': [{'content': 'x'}]}, 'messages[0].role'),
    ({'messages': [{'role': 5, 'content': 'x'}]}, 'messages[0].role'),
    ({'messages': [{'role': 'user'}]}, 'messages[0].content'),
    ({'messages': [{'role': 'user', 'content': 5}]}, 'messages[0].content'),
    ({'messages': [{'role': 'user', 'content': [{'type': 'image_url'}]}]},
     'messages[0].content[0]'),
    ({'model': 5}, 'model'),
    ({'temperature': 'hot'}, 'temperature'),
    ({'temperature': 2.5}, 'temperature'),
    ({'temperature': -0.1}, 'temperature'),
    ({'top_p': True}, 'top_p'),
    ({'top_k': 1.5}, 'top_k'),
    ({'min_p': 2}, 'min_p'),
    ({'seed': '7'}, 'seed'),
    ({'presence_penalty': 3}, 'presence_penalty'),
    ({'logit_bias': [1]}, 'logit_bias'),
    ({'logit_bias': {'x': 1}}, 'logit_bias'),
    ({'logit_bias': {'1': 'a'}}, 'logit_bias'),
    ({'max_tokens': 0}, 'max_tokens'),
    ({'max_tokens': 1.0}, 'max_tokens'),
    ({'max_tokens': 5, 'max_completion_tokens': 6}, 'max_tokens'),
    ({'stop': ''}, 'stop'),
    ({'stop': 5}, 'stop'),
    ({'stop': ['a'] * 17}, 'stop'),
    ({'stop': ['a', 5]}, 'stop[1]'),
    ({'stream': 'yes'}, 'stream'),
    ({'stream': 1}, 'stream'),
    ({'stream_options': {'include_usage': True}}, 'stream_options'),
    ({'stream': True, 'stream_options': {'include_usage': 1}}, 'stream_options.include_usage'),
    ({'ignore_eos': 'no'}, 'ignore_eos'),
    ({'logits_digest': 1}, 'logits_digest'),
    ({'cache_salt': 5}, 'cache_salt'),
    ({'conversation_id': 5}, 'conversation_id'),
    ({'conversation_id': ''}, 'conversation_id'),
    ({'conversation_id': 'x' * 513}, 'conversation_id'),
    ({'conversation_id': 'a\0b'}, 'conversation_id'),
    ({'conversation_id': 'x', 'conversation_expected_turn': '1'}, 'conversation_expected_turn'),
    ({'conversation_id': 'x', 'conversation_expected_turn': -1}, 'conversation_expected_turn'),
    ({'conversation_expected_turn': 1}, 'conversation_id'),
    ({'conversation_require_cache': True}, 'conversation_id'),
    ({'conversation_id': 'x', 'conversation_require_cache': 'y'}, 'conversation_require_cache'),
    ({'conversation_id': 'x', 'conversation_durability': 'disk'}, 'conversation_durability'),
    ({'conversation_Id': 'x'}, 'conversation_Id'),
    ({'conversation_expectd_turn': 4}, 'conversation_expectd_turn'),
    ({'conversation_unknown': None}, 'conversation_unknown'),
    ({'conversation_history': 'full'}, 'conversation_history'),
    ({'conversation_resume': 'prompt'}, 'conversation_resume'),
    ({'conversation_at_turn': 1}, 'conversation_at_turn'),
    ({'conversation_on_abort': 'x'}, 'conversation_on_abort'),
    ({'conversation_ttl': 5}, 'conversation_ttl'),
    ({'conversation_pin': True}, 'conversation_pin'),
    ({'conversation': 'x'}, 'conversation'),
    ({'tools': [{'type': 'function'}]}, 'tools'),
    ({'tool_choice': 'required'}, 'tool_choice'),
    ({'chat_template_kwargs': {'a': 1}}, 'chat_template_kwargs'),
    ({'n': 2}, 'n'),
    ({'n': 'one'}, 'n'),
    ({'logprobs': True}, 'logprobs'),
    ({'top_logprobs': 3}, 'top_logprobs'),
    ({'response_format': {'type': 'json_object'}}, 'response_format'),
]


def test_wrong_fields_are_named(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        for fields, param in WRONG_FIELDS:
            answer = client.post('/v1/chat/completions', json={**messages(), **fields})
            assert answer.status_code == 400, (fields, answer.text)
            error = error_of(answer)
            assert error['param'] == param, (fields, error)
            assert error['type'] == 'invalid_request_error' and error['code']


HARMLESS_FIELDS = [
    {'n': 1}, {'logprobs': False}, {'tools': None}, {'tools': []}, {'tool_choice': 'none'},
    {'top_logprobs': 0}, {'chat_template_kwargs': {}}, {'stop': None}, {'stop': []},
    {'stop': ['x'] * 16}, {'response_format': {'type': 'text'}}, {'conversation_pin': False},
    {'conversation_history': None}, {'temperature': None}, {'model': 'gpt-4'}, {'user': 5},
    {'metadata': {'a': 'b'}}, {'stream_options': None}, {'seed': -5}, {'top_k': -1},
    {'max_tokens': 5, 'max_completion_tokens': 5}, {'cache_salt': ''},
    {'messages': [{'role': 'system', 'content': 'be kind', 'name': 'x'},
                  {'role': 'anything', 'content': [{'type': 'text', 'text': 'text o'},
                                                   {'type': 'text', 'text': 'k'}]}]},
]


def test_harmless_fields_are_accepted(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        for fields in HARMLESS_FIELDS:
            answer = client.post('/v1/chat/completions', json={**messages(), **fields})
            assert answer.status_code == 200, (fields, answer.text)
            assert answer.json()['choices'][0]['message']['content'] == 'ok', fields


MALFORMED_JSON = [
    b'', b'{', b'nul', b'[]', b'5', b'"x"', b'{"messages":[}', b'\xff\xfe', b'{"a":1}}',
    b'{"messages":[],"messages":[]}', b'{"a":"\xc3"}', b'{"a":"\\ud800"}', b'{"a":1e999}',
    b'{"a":99999999999999999999}', b'[' * 100000, b'{"a":' * 1000, b'{"a":"\x01"}',
    b'{"messages":[{"role":"user","content":"x"}],"a":[' + b'1,' * 300000 + b'1]}', b'\0' * 100,
    b'{"messages"', b'{"messages":"', b'{"messages":"\\', b'{"messages":[{"role":"user","content":"',
]


def test_malformed_json_is_refused(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        for body in MALFORMED_JSON:
            answer = client.post('/v1/chat/completions', content=body)
            assert answer.status_code == 400, (body[:40], answer.text)
            assert error_of(answer)['type'] == 'invalid_request_error'


def test_failures_before_the_head_keep_their_shape_streamed_or_not(server):
    for stream in (False, True):
        def asking(script, is_stream=stream):
            return post_json(server, {**messages(script), 'stream': is_stream})

        conflict = asking('conflict 7')
        assert conflict.status_code == 409
        assert conflict.headers['x-should-retry'] == 'false'
        assert error_of(conflict)['code'] == 'conversation_turn_conflict'
        assert error_of(conflict)['param'] == 'conversation_expected_turn'
        assert error_of(conflict)['committed_turn'] == 7
        busy = asking('busy')
        assert busy.status_code == 409 and error_of(busy)['code'] == 'conversation_busy'
        assert busy.headers['retry-after'] == '2' and busy.headers['retry-after-ms'] == '1500'
        missing = asking('missing 99')
        assert missing.status_code == 409 and error_of(missing)['rebuild_tokens'] == 99
        full = asking('fail 507 storage_full')
        assert full.status_code == 507 and error_of(full)['code'] == 'storage_full'
        assert error_of(full)['type'] == 'server_error'
        unknown = asking('fail 404 conversation_not_found')
        assert unknown.status_code == 404


def test_unstreamed_failure_after_the_start_is_a_plain_error(server):
    answer = post_json(server, messages('text some\nfail 500 device_failed'))
    assert answer.status_code == 500 and error_of(answer)['code'] == 'device_failed'


def test_streamed_failure_after_the_start_is_an_event_without_done(server):
    answer = post_json(server, {**messages('text some\nfail 500 device_failed'), 'stream': True})
    assert answer.status_code == 200
    events = events_of(answer.content)
    assert events[-1][0] == 'error' and events[-1][1]['error']['code'] == 'device_failed'
    assert all(event != '[DONE]' for _, event in events)
    with client_of(server) as client, pytest.raises(openai.APIError):
        list(ask(client, 'text some\nfail 500 device_failed', stream=True))


def test_openai_client_raises_its_own_errors(server):
    with client_of(server) as client:
        with pytest.raises(openai.ConflictError) as caught:
            ask(client, 'busy')
        assert caught.value.code == 'conversation_busy'
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, 'x', extra_body={'conversation_idd': 'x'})
        assert caught.value.param == 'conversation_idd'
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve('other')


# --- other routes ------------------------------------------------------------------------------


def test_models(server):
    with client_of(server) as client:
        listed = list(client.models.list())
        assert [model.id for model in listed] == ['tern-fake']
        assert client.models.retrieve('tern-fake').owned_by == 'tern'


def test_unknown_paths_and_methods(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        for method, path in (('GET', '/'), ('POST', '/v1/chat'), ('GET', '/v1/conversations/'),
                             ('POST', '/v1/chat/completions/x'), ('GET', '/v1//models')):
            answer = client.request(method, path)
            assert answer.status_code == 404, path
            assert error_of(answer)['code'] == 'unknown_url'
        for method, path, allow in (('GET', '/v1/chat/completions', 'POST'),
                                    ('POST', '/v1/models', 'GET, HEAD'),
                                    ('GET', '/v1/conversations/x', 'DELETE'),
                                    ('PUT', '/health', 'GET, HEAD')):
            answer = client.request(method, path)
            assert answer.status_code == 405 and answer.headers['allow'] == allow, path
            assert error_of(answer)['code'] == 'method_not_allowed'
        head = client.head('/v1/models')
        assert head.status_code == 200 and head.content == b''
        assert int(head.headers['content-length']) > 0


def test_delete_of_a_conversation(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        fields = {**messages(), 'conversation_id': 'a b/ü+?', 'cache_salt': 's&= +'}
        assert client.post('/v1/chat/completions', json=fields).status_code == 200
        path = '/v1/conversations/a%20b%2F%C3%BC+%3F'
        wrong = client.delete(path, params={'cache_salt': 'other'})
        assert wrong.status_code == 404 and error_of(wrong)['code'] == 'conversation_not_found'
        assert wrong.headers['x-should-retry'] == 'false'
        assert client.delete(path).status_code == 404
        right = client.delete(path + '?cache_salt=s%26%3D+%2B')
        assert right.status_code == 200
        assert right.json() == {'id': 'a b/ü+?', 'object': 'conversation.deleted',
                                'deleted': True}
        assert client.delete(path + '?cache_salt=s%26%3D+%2B').status_code == 404
        broken = client.delete('/v1/conversations/broken')
        assert broken.status_code == 503 and error_of(broken)['code'] == 'ledger_failed'
        for wrong in ('x%zz', 'x%0', 'x%00', 'x%ff', 'x?salt=1', 'x?cache_salt=1&cache_salt=2',
                      'x?cache_salt=%f', 'x?cache_salt', 'x' * 600):
            assert client.delete('/v1/conversations/' + wrong).status_code == 400, wrong
        assert client.request('DELETE', '/v1/conversations/x', content=b'{}').status_code == 400


def test_health_follows_the_service(server):
    healthy = httpx.get(server.url + '/health')
    assert healthy.status_code == 200 and healthy.json()['status'] == 'ok'
    post_json(server, messages('unhealthy'))
    sick = httpx.get(server.url + '/health')
    assert sick.status_code == 503
    assert sick.json()['reasons'] == ['the ledger cannot be synced']
    post_json(server, messages())
    assert httpx.get(server.url + '/health').status_code == 200


def test_metrics_are_prometheus_text(server):
    post_json(server, messages('text a\ntext b'))
    post_json(server, {'messages': 5})
    answer = httpx.get(server.url + '/metrics')
    assert answer.headers['content-type'].startswith('text/plain; version=0.0.4')
    samples = {}
    typed = set()
    for line in answer.text.strip().split('\n'):
        if line.startswith('# TYPE '):
            assert line.split()[2] not in typed
            typed.add(line.split()[2])
        elif not line.startswith('#'):
            name, value = line.rsplit(' ', 1)
            assert name not in samples
            samples[name] = float(value)
            base = name.split('{')[0]
            assert {base, base.removesuffix('_bucket').removesuffix('_sum')
                    .removesuffix('_count')} & typed
    assert samples['tern_tokens_run_total'] == 2
    assert samples['tern_tokens_reused_total{tier="disk"}'] == 70
    assert samples['tern_http_requests_total{route="chat_completions",code="200"}'] == 1
    assert samples['tern_http_requests_total{route="chat_completions",code="400"}'] == 1
    assert samples['tern_chat_request_seconds_count'] == 2
    assert samples['tern_chat_first_text_seconds_bucket{le="+Inf"}'] == 1


def test_keys_name_tenants(started, tmp_path):
    keys = tmp_path / 'keys'
    keys.write_text('# keys\n\nsecret-one alice\nsecret-two   bob\n')
    server = started(api_keys=keys)
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        for value in (None, 'Bearer', 'Bearer wrong', 'Basic secret-one', 'secret-one',
                      'Bearer secret-one x'):
            fields = {} if value is None else {'authorization': value}
            for method, path in (('POST', '/v1/chat/completions'), ('GET', '/v1/models'),
                                 ('DELETE', '/v1/conversations/x')):
                answer = client.request(method, path, headers=fields)
                assert answer.status_code == 401, (value, path)
                assert error_of(answer)['code'] == 'invalid_api_key'
        assert client.get('/health').status_code == 200
        for key, tenant in (('secret-one', 'alice'), ('secret-two', 'bob')):
            answer = client.post('/v1/chat/completions', json=messages('echo'),
                                 headers={'authorization': 'bearer ' + key})
            assert json.loads(answer.json()['choices'][0]['message']['content'])['tenant'] == tenant
        fields = {**messages(), 'conversation_id': 'mine'}
        client.post('/v1/chat/completions', json=fields,
                    headers={'authorization': 'Bearer secret-one'})
        assert client.delete('/v1/conversations/mine',
                             headers={'authorization': 'Bearer secret-two'}).status_code == 404
        assert client.delete('/v1/conversations/mine',
                             headers={'authorization': 'Bearer secret-one'}).status_code == 200


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
    server = started(bodies_max=300000)
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
