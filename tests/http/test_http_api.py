"""Requests, answers and errors as public clients see them, over scripted turns (fake_turn.h)."""

import json
import time

import httpx
import openai
import pytest

from fake_server import PATIENCE_S, ask, client_of, error_of, events_of, messages, post, post_json


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
                    'prefill_ms': 1.25, 'decode_ms': 2.0, 'commit_ms': 0.5, 'durability': 'durable',
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
