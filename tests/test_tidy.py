#!/usr/bin/env python3
"""Shows every rule of tidy.py firing on a bad snippet, and staying silent on a good one."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import tidy  # noqa: E402: after the path is set

GOOD_HEADER = '''/*
 * A thing. Comments may say exp(x), { and "quotes".
 */
#ifndef TERN_BASE_THING_H
#define TERN_BASE_THING_H

#include "base/err.h"

struct thing;

typedef void visit_fn(void *context);

struct thing_view {
    int (*read)(void *context);
};

extern const struct thing *const thing_table[];

MUST_USE enum err thing_create(int size,
                               struct thing **out);
void thing_printf(struct thing *thing, const char *format, ...) PRINTF_LIKE(2, 3);

static inline int thing_is_odd(int value) {
    return value & 1;
}

#endif
'''
GOOD_SOURCE = '''#include "base/thing.h"

#include <math.h>

static const int table[] = {1, 2};

struct thing {
    int size;
};

enum err thing_create(int size, struct thing **out) {
    if (size > table[0]) {
        return ERR_INVALID;
    }
    (void)out;
    return fma(1, 2, 3) > sqrt(2) ? ERR_OK : ERR_IO;
}
'''
TREE = {
    'base/err.h': '#ifndef TERN_BASE_ERR_H\n#define TERN_BASE_ERR_H\nint err_fail(void);\n#endif\n',
    'base/thing.h': GOOD_HEADER,
    'base/thing.c': GOOD_SOURCE,
}


def header(path, body):
    """A header of that path with the right guard around BODY."""
    folder, stem = path.split('/')[0], os.path.splitext(os.path.basename(path))[0]
    guard = f'TERN_{folder}_{stem}_H'.upper()
    return f'#ifndef {guard}\n#define {guard}\n{body}\n#endif\n'


def findings(files):
    tree = dict(TREE)
    tree.update(files)
    sources = [tidy.Source(path, text) for path, text in sorted(tree.items())]
    return [f'{path}:{line}: {message}'
            for path, line, message in tidy.check_all(sources, set(tree))]


def function(lines):
    """A C function of that many lines."""
    return 'int thing_long(void) {\n' + '    call();\n' * (lines - 2) + '}\n'


class Tidy(unittest.TestCase):
    def assert_fires(self, files, place, words):
        found = findings(files)
        self.assertTrue(any(one.startswith(place + ':') and words in one for one in found),
                        f'{place}: ...{words}... is not among {found}')

    def assert_silent(self, files):
        self.assertEqual(findings(files), [])

    def test_good_tree_is_silent(self):
        self.assert_silent({})

    def test_fixture_functions_need_no_prefix(self):
        body = 'static inline int take_all(void) { return 1; }'
        self.assert_silent({'tests/some_fixture.h': header('tests/some_fixture.h', body)})
        self.assert_fires({'base/some_fixture.h': header('base/some_fixture.h', body)},
                          'base/some_fixture.h:3', 'begin it with some_')

    # rule 1: names

    def test_stem_twice(self):
        self.assert_fires({'engine/thing.c': ''}, 'engine/thing.c:1', 'is taken by base/thing')

    def test_symbol_without_its_stem(self):
        self.assert_fires({'base/two.h': header('base/two.h', 'int three_get(int a);')},
                          'base/two.h:3', 'begin it with two_')

    def test_symbol_over_two_lines(self):
        text = header('base/two.h', 'MUST_USE enum err\nget(int a,\nint b);')
        self.assert_fires({'base/two.h': text}, 'base/two.h:3', 'get is declared')

    def test_symbol_that_only_shares_letters(self):
        self.assert_fires({'base/two.h': header('base/two.h', 'int twofold(int a);')},
                          'base/two.h:3', 'twofold is declared')

    def test_inline_function_and_variable(self):
        text = header('base/two.h', 'static inline int get(int a) {\n    return a;\n}\n'
                                    'extern const int value[];')
        self.assert_fires({'base/two.h': text}, 'base/two.h:3', 'get is declared')
        self.assert_fires({'base/two.h': text}, 'base/two.h:6', 'value is declared')

    def test_inline_functions_share_the_first_word(self):
        text = header('base/two_avx2.h', 'static inline int two_get(int a) {\n    return a;\n}\n'
                                         'int two_put(int a);')
        self.assertEqual(findings({'base/two_avx2.h': text}),
                         ['base/two_avx2.h:6: two_put is declared in two_avx2.h: '
                          'begin it with two_avx2_'])

    def test_queue_macros_declare_no_function(self):
        text = header('base/two.h', 'TAILQ_HEAD(two_recency, two);\nSTAILQ_HEAD(two_queue, two);')
        self.assert_silent({'base/two.h': text})
        self.assert_fires({'base/two.h': header('base/two.h', 'TAILQ_MAKE(two_recency, two);')},
                          'base/two.h:3', 'TAILQ_MAKE is declared')

    def test_names_that_say_nothing(self):
        self.assert_fires({'base/text_util.c': ''}, 'base/text_util.c:1', 'say what it holds')
        self.assert_fires({'base/two.h': header('base/two.h', 'int two_get_ex(int a);')},
                          'base/two.h:3', 'says nothing')

    # rule 25: sizes

    def test_long_function(self):
        self.assert_silent({'base/two.c': function(70)})
        self.assert_fires({'base/two.c': '\n' + function(71)}, 'base/two.c:2', '71 lines')

    def test_long_function_behind_braces_in_text_and_comments(self):
        text = "/* { */\nstatic char brace = '{';\nstatic char *text = \"{\";\n" + function(71)
        self.assert_fires({'base/two.c': text}, 'base/two.c:4', '71 lines')

    def test_kernels_may_be_longer(self):
        self.assert_silent({'gpu/host/kernel_two.c': function(120)})
        self.assert_fires({'gpu/host/kernel_two.c': function(121)}, 'gpu/host/kernel_two.c:1',
                          'at most 120')
        self.assert_fires({'gpu/host/stream.c': function(121)}, 'gpu/host/stream.c:1', 'at most 70')
        self.assert_fires({'gpu/cuda/cuda_scan.cu': 'extern "C" {\n' + function(121) + '}\n'},
                          'gpu/cuda/cuda_scan.cu:2', 'at most 120')

    def test_long_file(self):
        self.assert_silent({'base/two.c': 'int a;\n' * 800})
        self.assert_fires({'base/two.c': 'int a;\n' * 801}, 'base/two.c:801', 'at most 800')

    def test_long_line(self):
        self.assert_fires({'base/two.c': '// ' + 'x' * 98 + '\n'}, 'base/two.c:1', '101 columns')
        self.assert_silent({'base/two.c': '// ' + 'x' * 97 + '\n'})
        self.assert_silent({'base/two.c': '// ' + 'é' * 97 + '\n'})

    # rule 27: edges

    def test_edge_upwards(self):
        files = {'gpu/two.h': header('gpu/two.h', ''), 'base/two_user.c': '#include "gpu/two.h"\n'}
        self.assert_fires(files, 'base/two_user.c:1', 'not an edge')

    def test_edge_from_ledger_to_store(self):
        files = {'store/two.h': header('store/two.h', ''), 'ledger/a.c': '#include "store/two.h"\n'}
        self.assert_fires(files, 'ledger/a.c:1', 'not an edge')

    def test_nothing_includes_tools_or_tests(self):
        files = {'tools/two.h': header('tools/two.h', ''), 'server/a.c': '#include "tools/two.h"\n'}
        self.assert_fires(files, 'server/a.c:1', 'not an edge')

    def test_include_of_no_file(self):
        self.assert_fires({'base/two.c': '#include "err.h"\n'}, 'base/two.c:1', 'not a file')

    def test_gpu_internal(self):
        files = {'gpu/host/kernel.h': header('gpu/host/kernel.h', '')}
        use = '#include "gpu/host/kernel.h"\n'
        self.assert_silent({**files, 'gpu/host/stream.c': use, 'tests/test_stream.c': use})
        self.assert_fires({**files, 'engine/a.c': use}, 'engine/a.c:1', 'internal to gpu/')
        self.assert_fires({**files, 'gpu/front.c': use}, 'gpu/front.c:1', 'by backend.h alone')
        self.assert_fires({**files, 'gpu/reference/a.c': use}, 'gpu/reference/a.c:1', 'reference')

    def test_own_header_first(self):
        text = '#include <stdio.h>\n#include "base/two.h"\n'
        self.assert_fires({'base/two.h': header('base/two.h', ''), 'base/two.c': text},
                          'base/two.c:1', 'first')

    # rule 28: third-party headers

    def test_confined_headers(self):
        allowed = {'lmdb.h': 'store/a.c', 'zstd.h': 'store/codec.c', 'event2/event.h': 'server/a.c',
                   'openssl/ssl.h': 'server/a.c', 'pcre2.h': 'engine/tokenizer_split.c',
                   'jansson.h': 'tools/a.c', 'sodium.h': 'engine/a.c', 'xxhash.h': 'store/a.c',
                   'immintrin.h': 'gpu/host/a.c', 'cuda_runtime.h': 'gpu/cuda/a.cu',
                   'cublas_v2.h': 'gpu/cuda/a.cu', 'editline/readline.h': 'tools/a.c',
                   'cmocka.h': 'tests/a.c'}
        for name, path in allowed.items():
            with self.subTest(name):
                self.assert_silent({path: f'#include <{name}>\n'})
                self.assert_fires({'gpu/b.c': f'\n#include <{name}>\n'}, 'gpu/b.c:2', 'confined')

    def test_one_file_a_folder(self):
        use = '#include <lmdb.h>\n'
        self.assert_silent({'store/a.c': use, 'ledger/b.c': use, 'tests/c.c': use})
        self.assert_fires({'store/a.c': use, 'store/b.c': use}, 'store/b.c:1', 'one file of store/')

    # text, guards, libm

    def test_text(self):
        self.assert_fires({'base/two.c': '\tint a;\n'}, 'base/two.c:1', 'a tab')
        self.assert_fires({'base/two.c': 'int a; \n'}, 'base/two.c:1', 'space at the end')
        self.assert_fires({'base/two.c': 'int a;'}, 'base/two.c:1', 'no newline')
        for word in ('TO' + 'DO', 'FIX' + 'ME'):
            self.assert_fires({'docs/two.md': f'\n{word}: more\n'}, 'docs/two.md:2', word)

    def test_guard(self):
        wrong = '#ifndef THING_H\n#define THING_H\n#endif\n'
        self.assert_fires({'base/two.h': wrong}, 'base/two.h:1', 'TERN_BASE_TWO_H')
        self.assert_fires({'base/two.h': 'int two_get(int a);\n'}, 'base/two.h:1', 'TERN_BASE')
        self.assert_silent({'gpu/host/two.h': header('gpu/host/two.h', '')})

    def test_libm(self):
        for call in ('expf(x)', 'log(x)', '__builtin_powf(x, 2)', 'tanh (x)', 'sinf(x)'):
            with self.subTest(call):
                self.assert_fires({'engine/a.c': f'\nfloat y = {call};\n'}, 'engine/a.c:2', 'libm')
        self.assert_silent({'engine/a.c': 'double y = reference_exp(x) + sqrt(x) + t.exp(1);\n'})
        self.assert_silent({'tests/test_a.c': 'double y = exp(x);\n'})

    # the command itself

    def run_main(self, files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), 'w', encoding='utf-8') as file:
                    file.write(text)
            command = [sys.executable, tidy.__file__, '--root', root]
            done = tidy.subprocess.run(command, capture_output=True, text=True)
            return done.returncode, done.stdout

    def test_format(self):
        style = {'a/.clang-format': 'BasedOnStyle: LLVM\n'}
        status, text = self.run_main({**style, 'a/two.c': 'int a;\n'})
        self.assertEqual((status, text), (0, 'tidy: 1 files, 0 findings\n'))
        status, text = self.run_main({**style, 'a/two.c': 'int  a ;\n'})
        self.assertEqual(status, 1)
        self.assertIn('a/two.c:1: code should be clang-formatted', text)

    def test_finding_fails_the_run(self):
        status, text = self.run_main({'base/two.c': '\n\nint a;\t\n'})
        self.assertEqual(status, 1)
        self.assertIn('base/two.c:3: a tab', text)


if __name__ == '__main__':
    unittest.main()
