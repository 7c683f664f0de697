"""Entries of a JSON file one by one, for files that exceed the memory (MPtrj is 11 GB)."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

_CHUNK = 1 << 22  # characters read at a time
_VISIBLE = re.compile(r"\S")
_AFTER = frozenset(",:]} \t\r\n")  # what may follow a value


def json_lines(file: TextIO) -> Iterator[tuple[str, Any]]:
    """("", value) of each line that is not empty."""
    for line in file:
        if line.strip():
            yield "", json.loads(line)


def json_items(file: TextIO, chunk: int = _CHUNK) -> Iterator[tuple[str, Any]]:
    """(key, value) of each entry of the outermost object, or ("", value) of each element of the outermost array.

    Raises ValueError where the text is not JSON or ends early.
    """
    text = _Text(file, chunk)
    close = {"[": "]", "{": "}"}[text.token("[{")]
    if text.peek() == close:
        return
    while True:
        key = ""
        if close == "}":
            key = text.value()
            text.token(":")
        yield key, text.value()
        if text.token("," + close) == close:
            return


class _Text:
    """A window on the file and a position in it."""

    def __init__(self, file: TextIO, chunk: int):
        self.file, self.chunk = file, chunk
        self.window, self.at, self.ended = "", 0, False
        self.decoder = json.JSONDecoder()

    def more(self) -> None:
        # As much again as is there at least, so that a long entry is not parsed too often.
        rest = self.window[self.at :]
        text = self.file.read(max(self.chunk, len(rest)))
        self.window, self.at, self.ended = rest + text, 0, not text

    def peek(self) -> str:
        """The next character that is not space; "" at the end."""
        while True:
            found = _VISIBLE.search(self.window, self.at)
            self.at = found.start() if found else len(self.window)
            if found or self.ended:
                return self.window[self.at : self.at + 1]
            self.more()

    def token(self, expected: str) -> str:
        found = self.peek()
        if not found or found not in expected:
            raise ValueError(f"expected {' or '.join(expected)} in JSON, found {found or 'the end of the file'}")
        self.at += 1
        return found

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                result, end = self.decoder.raw_decode(self.window, self.at)
                if self.window[end : end + 1] in _AFTER or self.ended:  # else a number may go on behind the window
                    self.at = end
                    return result
            except json.JSONDecodeError:
                if self.ended:
                    raise
            self.more()
