#!/usr/bin/env python3
"""Checks the house style that a compiler does not: names, sizes, edges between folders, format.

usage: tests/tidy.py [--root DIR] [--self-test] [--no-format]

Prints FILE:LINE: message for every finding and ends with exit status 1 if there is one. Needs
nothing but Python and clang-format 14 (--no-format does without it). --self-test runs
tests/test_tidy.py, which shows each rule firing.
"""

import argparse
import os
import re
import subprocess
import sys

FUNCTION_LINES_MAX = 70
KERNEL_LINES_MAX = 120
FILE_LINES_MAX = 800
COLUMNS_MAX = 100
PYTHON_COLUMNS_MAX = 120  # clang-format does not wrap it
CLANG_FORMAT_MAJOR = 14

C_SUFFIXES = ('.c', '.h', '.cu', '.cuh')
SCRIPT_SUFFIXES = ('.py', '.sh', '.cmake')
TEXT_SUFFIXES = C_SUFFIXES + SCRIPT_SUFFIXES + ('.md', '.txt')

# Test data is what it is; patches of tests/mutants keep the lines that they change.
EXEMPT_FOLDERS = ('tests/data/', 'tests/fuzz/corpus/', 'tests/mutants/', 'tests/golden/')

# The folders that each folder may include; every folder may include itself.
EDGES = {
    'base': (),
    'gpu': ('base',),
    'store': ('gpu', 'base'),
    'ledger': ('base',),
    'engine': ('store', 'gpu', 'base'),
    'server': ('engine', 'store', 'gpu', 'ledger', 'base'),
    'tools': ('server', 'engine', 'store', 'gpu', 'ledger', 'base'),
    'tests': ('tools', 'server', 'engine', 'store', 'gpu', 'ledger', 'base'),
}

# What is internal to gpu/: for gpu/ itself and the conformance tests.
GPU_INTERNAL = re.compile(r'gpu/(host|cuda|reference)/|gpu/(backend|command|cost|profile_record|transcendental)\.h$')

# Third-party headers and the files that may include them; `one_file_in` lists folders in which
# one file may. Tests may include them all, to build and to break what those files write.
CONFINED = (
    # (header, allowed paths, folders of which one file is allowed)
    (re.compile(r'lmdb\.h$'), None, ('store', 'ledger')),
    (re.compile(r'(zstd|zstd_errors|zdict)\.h$'), re.compile(r'store/codec[a-z0-9_]*\.c$'), ()),
    (re.compile(r'xxhash\.h$'), re.compile(r'(base|store|ledger)/'), ()),
    (re.compile(r'(event2/|event\.h$|evhttp\.h$)'), re.compile(r'server/'), ()),
    (re.compile(r'openssl/'), re.compile(r'server/'), ()),
    (re.compile(r'pcre2(posix)?\.h$'), re.compile(r'engine/tokenizer[a-z0-9_]*\.c$'), ()),
    (re.compile(r'jansson\.h$'), re.compile(r'(server|tools)/'), ('ledger',)),
    (re.compile(r'sodium(\.h$|/)'), re.compile(r'(base|store|ledger|engine|server)/'), ()),
    (re.compile(r'[a-z]*mmintrin\.h$|x86intrin\.h$|cpuid\.h$'), re.compile(r'gpu/host/'), ()),
    (re.compile(r'(cuda|cublas|nv)[A-Za-z0-9_]*\.(h|hpp|cuh)$|cooperative_groups'),
     re.compile(r'gpu/cuda/'), ()),
    (re.compile(r'(editline/|histedit\.h$)'), re.compile(r'tools/'), ()),
    (re.compile(r'cmocka\.h$'), re.compile(r'tests/'), ()),
)

# libm differs between versions, so results of the folders whose bits are promised use none of it
# but what rounds exactly (fma, sqrt, fabs, ldexp, rounding to integers).
LIBM_FOLDERS = ('base/', 'gpu/', 'engine/')
LIBM_INEXACT = re.compile(
    r'(?<![\w.>])(?:__builtin_)?(?:exp|exp2|exp10|expm1|log|log2|log10|log1p|pow|'
    r'sin|cos|tan|sincos|asin|acos|atan|atan2|sinh|cosh|tanh|asinh|acosh|atanh|'
    r'cbrt|hypot|erf|erfc|tgamma|lgamma)'
    r'[fl]?\s*\(')

BAD_WORDS = ('helper', 'helpers', 'util', 'utils', 'misc')
BAD_ENDINGS = re.compile(r'(_\d|_ex|_new)$')
OPEN_ENDS = re.compile(r'\b(' + '|'.join(('TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X')) + r')\b')

KEYWORDS = frozenset('if for while switch return sizeof do else case'.split())


class Source:
    """A file, its lines, and for C its text without comments, strings and preprocessor lines."""

    def __init__(self, path, text):
        self.path = path
        self.text = text
        self.lines = text.split('\n')
        if self.lines and self.lines[-1] == '':
            self.lines.pop()
        self.is_c = path.endswith(C_SUFFIXES)
        self.stem = os.path.splitext(os.path.basename(path))[0]
        self.folder = path.split('/')[0] if '/' in path else ''
        self.bare = blank_comments(text) if self.is_c else ''

    def line_of(self, offset):
        return self.text.count('\n', 0, offset) + 1


def blank_comments(text):
    """Comments, and what stands between quotes, become spaces; the line structure stays."""

    def blank(match):
        found = match.group(0)
        if found.startswith('/'):
            return re.sub(r'[^\n]', ' ', found)
        return found[0] + re.sub(r'[^\n]', ' ', found[1:-1]) + found[-1]

    pattern = (r'//(?:\\\n|[^\n])*|/\*.*?\*/'
               r'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'')
    return re.sub(pattern, blank, text, flags=re.DOTALL)


def blank_directives(bare):
    return re.sub(r'^[ \t]*#(?:\\\n|[^\n])*', lambda m: re.sub(r'[^\n]', ' ', m.group(0)), bare,
                  flags=re.MULTILINE)


def functions_of(source):
    """(name, first line, last line) of every function defined in a C or CUDA file."""
    text = blank_directives(source.bare)
    found = []
    depth = 0
    start = 0  # of the declaration that is being read at depth 0
    opened = None
    transparent = 0  # depth of open extern "C" and namespace blocks
    for match in re.finditer(r'[{};]', text):
        mark = match.group(0)
        if mark == '{':
            if depth == 0:
                head = text[start:match.start()]
                if re.match(r'\s*(extern\s*"[^"]*"|namespace\b[^()]*)\s*$', head):
                    transparent += 1
                    start = match.end()
                    continue
                named = re.search(r'(\w+)\s*\(', re.sub(r'__attribute__\s*\(\(.*?\)\)', '', head))
                is_function = named and '=' not in head and named.group(1) not in KEYWORDS
                opened = (named.group(1), start + len(head) - len(head.lstrip())) \
                    if is_function else None
            depth += 1
        elif mark == '}':
            if depth == 0:
                transparent = max(0, transparent - 1)
                start = match.end()
                continue
            depth -= 1
            if depth == 0:
                if opened:
                    found.append((opened[0], source.line_of(opened[1]),
                                  source.line_of(match.start())))
                    start = match.end()
                opened = None
        elif depth == 0:
            start = match.end()
    return found


def declarations_of(header):
    """(name, line, is inline) of the functions and variables that a header declares."""
    text = blank_directives(header.bare)
    # Macros of sys/queue.h declare structs, not functions.
    text = re.sub(r'^(?:S|ST|)(?:LIST|TAILQ)_HEAD\s*\(\w+,\s*\w+\);', lambda m: ' ' * len(m.group(0)), text,
                  flags=re.MULTILINE)
    text = re.sub(r'extern\s*"[^"]*"\s*\{', lambda m: ' ' * len(m.group(0)), text)
    # Bodies of structs, enums, unions and inline functions hold no external declarations.
    flat = []
    depth = 0
    for character in text:
        if character == '}':
            depth = max(0, depth - 1)
        flat.append(character if depth == 0 or character == '\n' else ' ')
        if character == '{':
            depth += 1
    flat = ''.join(flat)
    for match in re.finditer(r'[^;{}]*?[;{]', flat):
        piece = match.group(0)
        text_of = re.sub(r'__attribute__\s*\(\(.*?\)\)', '', piece)
        text_of = re.sub(r'\bKERNEL_SYMBOL\s*\((\w+)\)', r'\1()', text_of)
        text_of = re.sub(r'\b(?:PRINTF_LIKE|CLEANUP)\s*\([^()]*\)', '', text_of)
        if re.match(r'\s*(typedef\b|static\b(?!\s+inline\b))', text_of):
            continue
        line = header.line_of(match.start() + len(piece) - len(piece.lstrip()))
        function = re.match(r'[\s\w*]*?\b(\w+)\s*\(', text_of)
        if function and '=' not in text_of:
            yield function.group(1), line, bool(re.match(r'\s*static\b', text_of))
        elif re.match(r'\s*extern\b', text_of):
            variable = re.search(r'(\w+)\s*(?:\[[^\]]*\]\s*)*;$', text_of)
            if variable:
                yield variable.group(1), line, False


def check_text(source):
    path = source.path
    if source.text and not source.text.endswith('\n'):
        yield path, len(source.lines), 'the last line has no newline'
    columns_max = PYTHON_COLUMNS_MAX if path.endswith('.py') else COLUMNS_MAX
    is_prose = path.endswith(('.md', '.txt')) and not path.endswith('CMakeLists.txt')
    for number, line in enumerate(source.lines, 1):
        if '\t' in line:
            yield path, number, 'a tab; indent with spaces'
        if line != line.rstrip():
            yield path, number, 'space at the end of the line'
        open_end = OPEN_ENDS.search(line)
        if open_end:
            yield path, number, f'{open_end.group(1)}: finish it, or say what holds now'
        if not is_prose and len(line) > columns_max:
            yield path, number, f'{len(line)} columns, at most {columns_max}'
    if not is_prose and len(source.lines) > FILE_LINES_MAX:
        yield path, len(source.lines), f'{len(source.lines)} lines, at most {FILE_LINES_MAX} a file'


def check_functions(source):
    is_kernel = re.match(r'gpu/host/kernel_[^/]*\.[ch]$|gpu/cuda/', source.path)
    limit = KERNEL_LINES_MAX if is_kernel else FUNCTION_LINES_MAX
    for name, first, last in functions_of(source):
        if last - first + 1 > limit:
            yield (source.path, first,
                   f'function {name} has {last - first + 1} lines, at most {limit}')


def check_names(source):
    if set(source.stem.split('_')) & set(BAD_WORDS) or BAD_ENDINGS.search(source.stem):
        yield source.path, 1, f'file name {source.stem}: say what it holds'
    if not source.path.endswith(('.h', '.cuh')):
        return
    for name, line, is_inline in declarations_of(source):
        # A fixture's static functions belong to the one test that includes it.
        if is_inline and source.path.startswith('tests/'):
            continue
        # Headers that take turns behind one interface (simd_avx2.h) share their first word.
        prefix = source.stem.split('_')[0] if is_inline else source.stem
        if name != prefix and not name.startswith(prefix + '_'):
            yield (source.path, line,
                   f'{name} is declared in {source.stem}.h: begin it with {prefix}_')
        if BAD_ENDINGS.search(name):
            yield source.path, line, f'{name}: an ending that says nothing'


def check_guard(source):
    if not source.path.endswith(('.h', '.cuh')):
        return
    # Stems are unique, so the folders between may be left out.
    long_guard = re.sub(r'\W', '_', f'TERN_{os.path.splitext(source.path)[0]}_H').upper()
    guard = f'TERN_{source.folder}_{source.stem}_H'.upper()
    directives = re.findall(r'^[ \t]*#[ \t]*(\w+)[ \t]*(\S*)', source.bare, flags=re.MULTILINE)
    if directives[:2] == [('ifndef', long_guard), ('define', long_guard)]:
        guard = long_guard
    if directives[:2] != [('ifndef', guard), ('define', guard)] or directives[-1][0] != 'endif':
        yield source.path, 1, f'the include guard is to be {guard}'


def includes_of(source):
    """(line, quote, name): read from the full text, since the names are string-like."""
    for number, line in enumerate(source.lines, 1):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if match:
            yield number, match.group(1), match.group(2)


def check_edges(source, paths):
    path = source.path
    allowed = EDGES.get(source.folder)
    for number, quote, name in includes_of(source):
        if quote != '"':
            continue
        target = name.split('/')[0]
        if name not in paths:
            yield path, number, f'"{name}" is not a file of the tree, named from its root'
            continue
        if allowed is not None and target != source.folder and target not in allowed:
            yield path, number, f'{source.folder}/ includes {target}/: not an edge of the tree'
        if GPU_INTERNAL.match(name) and source.folder not in ('gpu', 'tests'):
            yield path, number, f'"{name}" is internal to gpu/'
        if path.startswith('gpu/reference/') and re.match(r'gpu/(host|cuda)/', name):
            yield path, number, f'"{name}": the reference is to know nothing of a backend'
        if re.match(r'gpu/[^/]*$', path) and re.match(r'gpu/(host|cuda|reference)/', name):
            yield path, number, f'"{name}": the front knows backends by backend.h alone'
    yield from check_own_header_first(source, paths)


def check_own_header_first(source, paths):
    own = os.path.splitext(source.path)[0] + '.h'
    if source.path.endswith('.h') or own not in paths:
        return
    names = [name for _, _, name in includes_of(source)]
    if own in names[1:]:
        yield source.path, 1, f'include "{own}" first'


def check_confined(sources):
    seen = {}
    for source in sources:
        if source.folder == 'tests':
            continue
        for number, quote, name in includes_of(source):
            if quote != '<':
                continue
            for rank, (header, allowed, one_file_in) in enumerate(CONFINED):
                if not header.match(name) or (allowed and allowed.match(source.path)):
                    continue
                if source.folder not in one_file_in:
                    yield source.path, number, f'<{name}> is confined to other files'
                    continue
                first = seen.setdefault((rank, source.folder), source.path)
                if first != source.path:
                    yield (source.path, number,
                           f'<{name}> is for one file of {source.folder}/, and {first} has it')


def check_libm(source):
    if not source.path.startswith(LIBM_FOLDERS):
        return
    for match in LIBM_INEXACT.finditer(source.bare):
        yield (source.path, source.line_of(match.start()),
               f'{match.group(0).rstrip("( ")}: libm differs between versions; '
               'use base/elementary.h or gpu/transcendental.h')


def check_stems(sources):
    seen = {}
    for source in sources:
        if not source.path.endswith(C_SUFFIXES + ('.py',)) or source.stem == '__init__':
            continue
        place = os.path.splitext(source.path)[0]
        first = seen.setdefault(source.stem, place)
        if first != place:
            yield source.path, 1, f'file stem {source.stem} is taken by {first}'


def check_all(sources, paths):
    findings = []
    for source in sources:
        findings += check_text(source)
        if source.is_c:
            findings += check_functions(source)
            findings += check_names(source)
            findings += check_guard(source)
            findings += check_edges(source, paths)
            findings += check_libm(source)
    findings += check_stems(sources)
    findings += check_confined(sources)
    return sorted(findings)


def clang_format_command():
    """The clang-format of the version that the tree is formatted with; others differ."""
    for name in (f'clang-format-{CLANG_FORMAT_MAJOR}', 'clang-format'):
        try:
            text = subprocess.run([name, '--version'], capture_output=True, text=True).stdout
        except OSError:
            continue
        if re.search(rf'version {CLANG_FORMAT_MAJOR}\.', text):
            return name
    return None


def check_format(root, paths):
    command = clang_format_command()
    if command is None:
        return [('.clang-format', 1, f'clang-format {CLANG_FORMAT_MAJOR} is not installed')]
    if not paths:
        return []
    done = subprocess.run([command, '--dry-run', '--Werror', *paths], cwd=root,
                          capture_output=True, text=True)
    findings = {}
    for line in done.stderr.split('\n'):
        match = re.match(r'(.+?):(\d+):\d+: (?:error|warning): (.*)', line)
        if match and match.group(1) not in findings:
            findings[match.group(1)] = (match.group(1), int(match.group(2)), match.group(3))
    if done.returncode != 0 and not findings:
        return [('.clang-format', 1, f'{command} failed: {done.stderr.strip()[:200]}')]
    return sorted(findings.values())


def tracked_paths(root):
    """Files that git knows or does not ignore; without git, all but builds and hidden folders."""
    if os.path.exists(os.path.join(root, '.git')):
        done = subprocess.run(['git', '-C', root, 'ls-files', '-z', '-co', '--exclude-standard'],
                              capture_output=True, text=True)
        if done.returncode == 0:
            return sorted(path for path in set(done.stdout.split('\0'))
                          if path and os.path.isfile(os.path.join(root, path)))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in ('build', '__pycache__')
                      and (not name.startswith('.') or name == '.ci')]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(found)


def is_script(root, path):
    if '.' in os.path.basename(path):
        return False
    with open(os.path.join(root, path), 'rb') as file:
        return file.read(2) == b'#!'


def read_sources(root, paths):
    sources = []
    findings = []
    for path in paths:
        if path.startswith(EXEMPT_FOLDERS):
            continue
        if not path.endswith(TEXT_SUFFIXES) and not is_script(root, path):
            continue
        try:
            with open(os.path.join(root, path), encoding='utf-8', newline='') as file:
                sources.append(Source(path, file.read()))
        except UnicodeDecodeError:
            findings.append((path, 1, 'not UTF-8'))
    return sources, findings


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument('--root', default=os.path.dirname(here), help='the tree to check')
    parser.add_argument('--self-test', action='store_true', help='show each rule firing')
    parser.add_argument('--no-format', action='store_true', help='do without clang-format')
    options = parser.parse_args()
    if options.self_test:
        return subprocess.run([sys.executable, os.path.join(here, 'test_tidy.py')]).returncode
    paths = tracked_paths(options.root)
    sources, findings = read_sources(options.root, paths)
    findings += check_all(sources, set(paths))
    if not options.no_format:
        findings += check_format(options.root, [source.path for source in sources if source.is_c])
    for path, line, message in findings:
        print(f'{path}:{line}: {message}')
    print(f'tidy: {len(sources)} files, {len(findings)} findings')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
