"""Where a model's first action ends: the closing brace of the first complete JSON object.

Without torch, since local decoding stops at it token by token, and an endpoint's text is cut at it afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Action:
    """Finds the end of the first complete JSON object: balanced braces, those inside strings not counted."""

    depth: int = 0
    quoted: bool = False
    escaped: bool = False

    def feed(self, text: str) -> int | None:
        """Characters of `text` up to and with the closing brace, or None when it is not in it."""
        for at, letter in enumerate(text):
            if self.quoted:
                if self.escaped:
                    self.escaped = False
                elif letter == "\\":
                    self.escaped = True
                elif letter == '"':
                    self.quoted = False
            elif letter == '"':
                self.quoted = self.depth > 0
            elif letter == "{":
                self.depth += 1
            elif letter == "}" and self.depth:
                self.depth -= 1
                if not self.depth:
                    return at + 1
        return None
