#!/usr/bin/env python3
"""What tally.py counts in the reports of ctest and pytest."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import tally  # noqa: E402: after the path is set

CMOCKA = '[==========] 4 test(s) run.[  PASSED  ] 3 test(s).\n[  FAILED  ] 1 test(s), listed below:\n'


def count(*cases):
    with tempfile.NamedTemporaryFile('w', suffix='.xml') as file:
        file.write('<testsuite>' + ''.join(cases) + '</testsuite>')
        file.flush()
        return tally.count_report(file.name)


def case(status, text='', inside=''):
    return (f'<testcase name="a" status="{status}">{inside}'
            f'<system-out>{text}</system-out></testcase>')


class Tally(unittest.TestCase):
    def test_plain_programs_count_as_one(self):
        self.assertEqual(count(case('run'), case('run', 'text'), case('fail')), [2, 1, 0])

    def test_cmocka_functions_count_each(self):
        self.assertEqual(count(case('run', '[  PASSED  ] 25 test(s).')), [25, 0, 0])
        self.assertEqual(count(case('fail', CMOCKA)), [3, 1, 0])

    def test_two_groups_of_one_program_add_up(self):
        text = '[  PASSED  ] 2 test(s).\n[  PASSED  ] 3 test(s).\n'
        self.assertEqual(count(case('run', text)), [5, 0, 0])

    def test_crash_is_a_failure(self):
        self.assertEqual(count(case('fail', '[  PASSED  ] 2 test(s).\n')), [2, 1, 0])

    def test_closing_lines_count(self):
        self.assertEqual(count(case('run', 'all well\n12 passed, 0 failed\n')), [12, 0, 0])
        self.assertEqual(count(case('fail', '12 passed, 3 failed\n')), [12, 3, 0])

    def test_skipped_is_neither(self):
        self.assertEqual(count(case('notrun', '', '<skipped/>')), [0, 0, 1])

    def test_pytest_failure_and_error(self):
        self.assertEqual(count('<testcase name="a"><failure/></testcase>',
                               '<testcase name="b"><error/></testcase>',
                               '<testcase name="c"/>'), [1, 2, 0])

    def test_contradiction_is_an_error(self):
        with self.assertRaises(ValueError):
            count(case('run', CMOCKA))

    def test_missing_report_is_an_error(self):
        with self.assertRaises(OSError):
            tally.count_report('/nonexistent/report.xml')


if __name__ == '__main__':
    unittest.main()
