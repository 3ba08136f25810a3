#!/usr/bin/env python3
"""Counts the tests of a JUnit report: tests/tally.py REPORT prints "PASSED FAILED SKIPPED".

Reports of ctest and of pytest. A cmocka program counts as the test functions that it ran, not as
one, and so does a program that prints 'N passed, N failed' on a line of its own. A program that
failed without naming a failed test (it crashed, or ran out of time) counts as one failure beside
those that passed. A report that is missing or broken is an error.
"""

import re
import sys
import xml.etree.ElementTree as tree


def cmocka_counts(text):
    """(passed, failed, skipped) over all groups that a cmocka program printed, or None."""
    marks = re.findall(r'\[\s+(PASSED|FAILED|SKIPPED)\s+\] (\d+) test\(s\)', text)
    if not marks:
        return None
    totals = {'PASSED': 0, 'FAILED': 0, 'SKIPPED': 0}
    for word, count in marks:
        totals[word] += int(count)
    return totals['PASSED'], totals['FAILED'], totals['SKIPPED']


def closing_counts(text):
    """(passed, failed, skipped) over all closing lines that a program printed, or None."""
    lines = re.findall(r'^(\d+) passed, (\d+) failed$', text, re.MULTILINE)
    if not lines:
        return None
    return sum(int(passed) for passed, _ in lines), sum(int(failed) for _, failed in lines), 0


def count_case(case):
    is_failed = case.get('status') == 'fail' or case.find('failure') is not None \
        or case.find('error') is not None
    is_skipped = case.find('skipped') is not None
    if is_skipped and not is_failed:
        return 0, 0, 1
    text = case.findtext('system-out') or ''
    counts = cmocka_counts(text) or closing_counts(text) or (0 if is_failed else 1, 0, 0)
    passed, failed, skipped = counts
    if is_failed and failed == 0:
        failed = 1
    if not is_failed and failed > 0:
        raise ValueError(f'{case.get("name")} names failures and yet succeeded')
    return passed, failed, skipped


def count_report(path):
    totals = [0, 0, 0]
    for case in tree.parse(path).getroot().iter('testcase'):
        totals = [total + count for total, count in zip(totals, count_case(case))]
    return totals


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ('-h', '--help'):
        print(__doc__)
        return 0 if len(sys.argv) == 2 else 2
    try:
        print(*count_report(sys.argv[1]))
    except (OSError, ValueError, tree.ParseError) as problem:
        print(f'tally: {sys.argv[1]}: {problem}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
