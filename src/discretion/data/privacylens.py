"""The PrivacyLens file (`main_data.json`, SALT-NLP, arXiv 2409.00138), parsed once for all suites that read it.

A `Record` holds only what the suites use; a field that is missing or of the wrong type is a `DataError` at its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from discretion.data.rows import Row, text_field
from discretion.errors import DataError

COLUMNS = frozenset({"name", "seed", "vignette", "trajectory"})


@dataclass(frozen=True, slots=True)
class Flow:
    """Who passes what on, about whom, to whom."""

    sender: str
    recipient: str
    subject: str
    attribute: str


@dataclass(frozen=True, slots=True)
class Record:
    """One of the 493 situations. In all of them passing the information on would be wrong."""

    name: str
    sender_name: str
    channel: str
    """The instrument calls it `transmission_principle`, such as `send a facebook post`."""
    generic: Flow
    """In generic words, from `seed`."""
    concrete: Flow
    """In the words of the story, from `vignette`."""
    story: str
    user: str
    instruction: str
    steps: str
    """What the agent did and saw so far."""
    tool: str
    """The tool of the last step."""
    toolkits: tuple[str, ...]
    """Names of the families of tools; empty where the file has none."""
    secrets: tuple[str, ...]

    @property
    def about_sender(self) -> bool:
        """The information is the sender's own."""
        own = self.sender_name.casefold()
        return own in (self.generic.subject.casefold(), self.concrete.subject.casefold())


def parse(where: str, row: Row) -> Record:
    """A record from a row of the file."""
    seed, vignette, trajectory = (_part(where, row, key) for key in ("seed", "vignette", "trajectory"))
    name = text_field(where, seed, "data_sender_name")
    secrets = trajectory.get("sensitive_info_items")
    if not isinstance(secrets, list) or not secrets or not all(isinstance(s, str) and s.strip() for s in secrets):
        raise DataError(f"{where}: 'trajectory.sensitive_info_items' must be a list of texts; repair the row")
    return Record(
        name=text_field(where, row, "name"),
        sender_name=name,
        channel=text_field(where, seed, "transmission_principle"),
        generic=Flow(
            sender=f"{name} ({text_field(where, seed, 'data_sender')})",
            recipient=text_field(where, seed, "data_recipient"),
            subject=text_field(where, seed, "data_subject"),
            attribute=text_field(where, seed, "data_type"),
        ),
        concrete=Flow(
            sender=text_field(where, vignette, "data_sender_concrete"),
            recipient=text_field(where, vignette, "data_recipient_concrete"),
            subject=text_field(where, vignette, "data_subject_concrete"),
            attribute=text_field(where, vignette, "data_type_concrete"),
        ),
        story=text_field(where, vignette, "story"),
        user=text_field(where, trajectory, "user_name"),
        instruction=text_field(where, trajectory, "user_instruction"),
        steps=text_field(where, trajectory, "executable_trajectory", empty=True),
        tool=text_field(where, trajectory, "final_action"),
        toolkits=_names(where, trajectory.get("toolkits")),
        secrets=tuple(secrets),
    )


def _names(where: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{where}: 'trajectory.toolkits' must be a list of names; repair the row")
    return tuple(value)


def _part(where: str, row: Row, key: str) -> Row:
    value = row.get(key)
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: {key!r} must be an object, found {type(value).__name__}; repair the row")
    return value
