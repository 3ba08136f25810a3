"""The options of tests/peer/run, which tests/bench/report has the defaults of."""
import argparse

import peer_cases

ABOUT = """Runs the same conversations against a llama.cpp server and a tern server on one GGUF file.

Prints a table of figures and how many times better tern's are. Ends with exit status 1 and a
message if a request fails, or if what was measured is not what the case is about: a turn that was
rebuilt, state from another tier, a peer that ran its history again.

The peer is to be started by: llama-server -m FILE -c 65536 -np 4 --cache-ram 512
--slot-save-path DIR -t N. A restart command returns when the old process has ended; the new one
may still be loading.
"""


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text}: 1 or more')
    return value


def numbers(text):
    return [positive(part) for part in text.split(',')]


def parser_of():
    parser = argparse.ArgumentParser(description=ABOUT, prog='tests/peer/run',
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--peer', required=True, metavar='URL', help='the llama.cpp server')
    add('--tern', required=True, metavar='URL', help='the tern server')
    add('--cases', metavar='CASE,...', help=f'of {",".join(peer_cases.CASES)}; all by default, '
        'but restart only with its commands')
    add('--json', metavar='FILE', help='every sample goes there')
    add('--seed', help='of the texts; drawn, unless given, so that no cache knows them')
    add('--peer-restart', metavar='CMD', help='stops and starts the peer')
    add('--tern-restart', metavar='CMD', help='stops and starts tern')
    for name, value, text in (
            ('history', 4000, 'turn: tokens of history'),
            ('new', 212, 'turn, restart: tokens that are new'),
            ('rounds', 5, 'turn: next turns'),
            ('restart-history', 8000, 'restart: tokens of history'),
            ('restart-rounds', 1, 'restart: of each kind'),
            ('conversations', 16, 'swap: how many'),
            ('turns', 5, 'swap: of each conversation'),
            ('in-flight', 4, 'swap: requests at once'),
            ('swap-new', 200, 'swap: tokens that are new'),
            ('stream-rounds', 3, 'streams: runs of each number'),
            ('commit-turns', 100, 'commit: how many')):
        add(f'--{name}', type=positive, default=value, metavar='N', help=f'{text} ({value})')
    add('--streams', type=numbers, default=[1, 8], metavar='N,...',
        help='streams: requests at once (1,8)')
    return parser
