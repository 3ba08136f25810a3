#!/usr/bin/env python3
"""Writes random chat templates, messages, and what Jinja makes of them, one JSON object a line.

    template_generator.py --seed 1 --count 1000 > tests/data/templates/cases.jsonl

Needs jinja2, which it configures as transformers does. Half of the templates are such as tern
understands, in all their spellings of white space; the others have something beside that, and
`is_other` says so.
"""
import argparse
import json
import random

import jinja2
import jinja2.ext
import jinja2.sandbox

SPACES = ["", "", "", " ", "\n", "  ", " \n", "\n\n", "\t", "\r\n", "\n  ", " \r", "\u00a0", "\u2003\n",
          "\f", "\x85", "\u2028"]
WORDS = ["a", "user:", "{", "}", "%", "#", "{ {", "é", "漢字", "🚀", "<|x|>", "-", "+", "'", '"', "\\",
         "x\\n", "}}", "%}", "#}", "\n", "\r\n", "\r", " end "]
CHARACTERS = ["a", "Z", " ", "0", "\\n", "\\t", "\\\\", "\\'", '\\"', "\\x41", "\\u00e9", "\\U0001F680",
              "\\101", "\\7", "\\0", "\\d", "\\é", "\\漢", "\\🚀", "é", "漢", "\n", "\r\n", "\\\n", "{{", "%}",
              "#}", "{#", "<|m|>", "\\a\\b\\f\\v\\r", "-", "\\777", "\\400x", "\\18"]
CONTENTS = ["", "Hello!", "two\nlines\n", "  blank  ", "{{ x }}", "{% if %}", "é漢🚀", "a\r\nb", "\\n", "\0",
            "<|end_of_text|>", "'\"", "\t"]
ROLES = ["user", "assistant", "system", "tool", "", "{%"]
BOS = "<|bos|>"
EOS = "<|eos|>"


class Writer:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, *choices):
        return self.random.choice(choices)

    def space(self):
        return self.random.choice(SPACES)

    def inner(self):
        """White space inside a tag."""
        return self.random.choice(["", " ", " ", " ", "  ", "\n", "\t", "\r\n", "\u00a0"])

    def must(self):
        return self.inner() or " "

    def string(self):
        quote = self.pick("'", '"')
        count = self.random.randint(0, 4)
        text = "".join(self.random.choice(CHARACTERS) for _ in range(count))
        other = self.pick("", "'", '"')
        return quote + (text + other if other != quote else text) + quote

    def value(self, variable):
        kind = self.random.random()
        if kind < 0.1:
            return self.pick("bos_token", "eos_token")
        if variable and kind < 0.6:
            field = self.pick("role", "content", "content")
            quote = self.pick("'", '"')
            return self.pick(f"{variable}.{field}", f"{variable}[{quote}{field}{quote}]",
                             f"{variable}{self.inner()}[{self.inner()}{quote}{field}{quote}{self.inner()}]",
                             f"{variable}{self.inner()}.{self.inner()}{field}")
        if kind > 0.95:
            return self.string() + self.inner() + self.string()
        return self.string()

    def expression(self, variable):
        parts = [self.value(variable)]
        while self.random.random() < 0.4:
            parts += [self.inner(), self.pick("+", "~"), self.inner(), self.value(variable)]
        text = "".join(parts)
        return ("{{" + self.pick("", "", "-", "+") + self.inner() + text + self.inner() +
                self.pick("", "", "-") + "}}")

    def tag(self, text):
        return ("{%" + self.pick("", "", "-", "+") + self.inner() + text + self.inner() +
                self.pick("", "", "-", "+") + "%}")

    def comment(self):
        return ("{#" + self.pick("", "", "-", "+") + self.pick("", " note ", "\n", "{{ a }}", "# -", "-") +
                self.pick("", "", "-", "+") + "#}")

    def written(self, variable):
        text = ""
        for _ in range(self.random.randint(0, 3)):
            kind = self.random.random()
            if kind < 0.4:
                text += self.space()
            elif kind < 0.55:
                text += self.random.choice(WORDS)
            elif kind < 0.65:
                text += self.comment()
            else:
                text += self.expression(variable)
        return text + self.space()

    def template(self):
        variable = self.pick("message", "m", "_x1", "role")
        text = self.written(None)
        text += self.tag("for" + self.must() + variable + self.must() + "in" + self.must() + "messages")
        text += self.written(variable) + self.written(variable) + self.tag("endfor")
        text += self.written(None)
        if self.random.random() < 0.85:
            text += self.tag("if" + self.must() + "add_generation_prompt")
            text += self.written(None) + self.tag("endif") + self.written(None)
        return text

    def other(self):
        """A template with one thing that tern does not know, or a small accident."""
        text = self.template()
        at = self.random.randint(0, len(text))
        if self.random.random() < 0.5:
            extra = self.pick("{% set x = 1 %}", "{{ messages }}", "{{ 1 }}", "{% if true %}", "{% endif %}",
                              "{% else %}", "{{ loop.first }}", "{% for a in b %}", "{{ 'a' | upper }}",
                              "{{ ('a') }}", "{{ 'a' * 2 }}", "{% raw %}", "{{", "{%", "{#", "}}", "{{ m.x }}")
            return text[:at] + extra + text[at:]
        end = min(len(text), at + self.random.randint(1, 3))
        return text[:at] + text[end:]

    def messages(self):
        return [{"role": self.random.choice(ROLES), "content": self.random.choice(CONTENTS)}
                for _ in range(self.random.randint(0, 3))]


def environment():
    return jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])


def case(writer, environ, is_other):
    template = writer.other() if is_other else writer.template()
    given = {"template": template, "messages": writer.messages(),
             "add_generation_prompt": writer.random.random() < 0.7}
    try:
        text = environ.from_string(template).render(
            messages=given["messages"], add_generation_prompt=given["add_generation_prompt"],
            bos_token=BOS, eos_token=EOS)
        text.encode("utf-8")
        given["text"] = text
    except Exception as error:  # whatever: the template is refused
        given["error"] = type(error).__name__
    given["is_other"] = is_other
    return given


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    writer = Writer(options.seed)
    environ = environment()
    for number in range(options.count):
        print(json.dumps(case(writer, environ, number % 2 == 1), ensure_ascii=False))


if __name__ == "__main__":
    main()
