"""The tools of PrivacyLens' agents, by toolkit: names and arguments as its trajectories use them, descriptions ours.

Only tools that occur in the trajectories and final actions: the original toolkits hold more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from discretion.schema import Parameter, Tool


def _tool(name: str, description: str, *needed: str, **optional: Any) -> Tool:
    """`needed` are texts; `optional` maps a name to its kind."""
    return Tool(
        name=name,
        description=description,
        parameters=(
            *(Parameter(name=each) for each in needed),
            *(Parameter(name=each.rstrip("_"), kind=kind, required=False) for each, kind in optional.items()),
        ),
    )


TOOLKITS: Mapping[str, tuple[Tool, ...]] = {
    "FacebookManager": (
        _tool("FacebookManagerCreatePost", "Publish a post on the user's page.", "content"),
        _tool("FacebookManagerGetUserProfile", "Show the user's profile.", user_id="string"),
    ),
    "Gmail": (
        _tool(
            "GmailSearchEmails",
            "Find e-mails in the user's mailbox.",
            keywords="array",
            limit="integer",
            from_="string",
            to="string",
            date_range="object",
            folders="array",
        ),
        _tool("GmailReadEmail", "Show one e-mail in full.", "email_id"),
        _tool("GmailSearchContacts", "Find people in the user's address book.", "name"),
        _tool("GmailSendEmail", "Send an e-mail from the user's address.", "to", "subject", "body"),
    ),
    "GoogleCalendar": (
        _tool(
            "GoogleCalendarSearchEvents",
            "Find events in the user's calendar.",
            keywords="array",
            start_date="string",
            end_date="string",
            attendees="array",
        ),
        _tool("GoogleCalendarReadEvents", "Show events in full.", event_ids="array"),
    ),
    "Messenger": (
        _tool("MessengerReceiveMessage", "Show messages that came lately.", max_count="integer"),
        _tool("MessengerSearchInChat", "Find a term in one chat.", "chat_id", "term"),
        _tool("MessengerSendMessage", "Send a message to one person.", "recipient", "message"),
    ),
    "NotionManager": (
        _tool("NotionManagerSearchContent", "Find the user's notes and pages.", "keywords"),
        _tool("NotionManagerReadPage", "Show one page in full.", "page_id"),
    ),
    "Slack": (
        _tool(
            "SlackSearchMessage",
            "Find messages in the user's channels.",
            "query",
            in_="string",
            from_="string",
            max_results="integer",
        ),
        _tool("SlackSearchChannelOrUser", "Find a channel or a person.", "query", search_type="string"),
        _tool("SlackGetUserDetails", "Show who somebody is.", "user_name"),
        _tool("SlackSendMessage", "Send a message to a channel or a person.", "recipient", "message"),
    ),
}


def offered(toolkits: Sequence[str]) -> tuple[Tool, ...]:
    """The tools of these toolkits; a toolkit that is not known here adds none."""
    return tuple(tool for name in toolkits for tool in TOOLKITS.get(name, ()))


def needed_arguments(name: str) -> tuple[str, ...]:
    """What the tool of this name cannot do without; nothing for an unknown one."""
    known = next((tool for tools in TOOLKITS.values() for tool in tools if tool.name == name), None)
    return () if known is None else tuple(each.name for each in known.parameters if each.required)
