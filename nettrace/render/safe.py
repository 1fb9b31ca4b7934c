"""Make text from elsewhere harmless to a terminal.

Container names, interface aliases, rule comments and ICMP payloads are chosen by others. Printed raw, a control
character in them could move the cursor, recolour a verdict or rewrite a line above.
"""

from __future__ import annotations

__all__ = ["safe", "safe_json"]


def safe(text: str) -> str:
    r"""Return the text with everything that is not printable shown as an escape (``\x1b``, ``\u202e``).

    Control characters, line breaks, bidirectional overrides, surrogates and unassigned code points are escaped, as
    `str.isprintable` tells them.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def safe_json(document: str) -> str:
    r"""Return the same JSON document with unprintable characters inside its strings as ``\uXXXX``.

    Outside strings JSON holds only ASCII that is printable or white space, so what is replaced is inside a string.
    """
    if document.isascii() and "\x7f" not in document:
        return document
    return "".join(char if char.isprintable() or char in " \n" else _json_escape(char) for char in document)


def _escape(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _json_escape(char: str) -> str:
    code = ord(char)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
