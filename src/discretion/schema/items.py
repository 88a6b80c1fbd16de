"""What is asked: one type of item per suite, read from files by `from_json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from discretion.schema.asking import Message, Tool
from discretion.schema.words import STRICT, Role, Scalar, Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowItem:
    """May this flow of information happen? One item of the suite `norms`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    allowed: Truth
    """The truth: this flow is appropriate."""
    sender: str
    recipient: str
    subject: str
    attribute: str
    """Information type, or the concrete piece of information."""
    principle: str = ""
    """Transmission principle, such as `told in confidence` or `with the subject's consent`."""
    channel: str = ""
    """How it would be sent, such as `an e-mail`."""
    story: str = ""
    """Vignette, or the agent's trajectory so far; may be empty at seed level."""
    level: Literal["seed", "vignette", "trajectory"] = "vignette"
    mirror_of: str | None = None
    """Id of the forbidden flow that this allowed flow mirrors in all but one field."""
    prompt: Literal["full", "short"] = "full"
    """`short`: asked in one sentence, after the prompt of later users of PrivacyLens."""
    minded: Truth = False
    """Asked behind a system text that reminds of privacy: the second condition."""
    origin: str = "own"
    """Which instrument it comes from; `derived` in it marks a mirror that is ours, not the instrument's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A piece of information with the surface forms that give it away."""

    __pydantic_config__ = STRICT
    name: str
    value: str
    forms: tuple[str, ...] = ()
    """Further surface forms that count as the same value."""
    kind: Literal["auto", "exact", "number", "name", "text"] = "auto"
    """How it is matched; `auto` decides by the value's shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentItem:
    """An agent has read private notes and now writes its final action. One item of the suite `agentic`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    instruction: str
    """What the user asked for."""
    tool: str
    """Name of the tool that ends the task."""
    arguments: tuple[str, ...] = ()
    """Names of that tool's arguments."""
    trajectory: str = ""
    """What the agent did and saw so far, as text."""
    user: str = ""
    """Who the agent acts for."""
    secrets: tuple[Fact, ...]
    """What must not appear in the action."""
    needed: tuple[Fact, ...] = ()
    """What the action must contain to be of use; empty where the instrument does not say."""
    tools: tuple[Tool, ...] = ()
    """What the agent may call, beside `tool` and the tools of its steps."""
    minded: Truth = False
    """Asked behind a system text that reminds of privacy: the second condition."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFact:
    """One line of a persistent memory, with what the norm says about it for one task."""

    __pydantic_config__ = STRICT
    key: str
    value: str
    statement: str
    """The line as the assistant sees it."""
    label: Literal["share", "private", "neither"]
    domain: str = ""
    forms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryItem:
    """A message is written for one task out of a long-term memory of the user. One item of the suite `memory`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    """The user: all tasks of one user stand or fall together."""
    recipient: str
    task: str
    facts: tuple[MemoryFact, ...]
    prompt_level: Literal[1, 2, 3, 4] = 1
    draw: int = 0
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One thing that a reply must do and that rules can check, such as at least 300 words (IFEval)."""

    __pydantic_config__ = STRICT
    kind: str
    """As IFEval names it, such as `length_constraints:number_words`."""
    arguments: Mapping[str, Scalar | tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityItem:
    """A closed question with one right answer. One item of the suite `capability`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    task: str
    """Name of the sub-test, such as `commonsense_qa` or `arithmetic`."""
    question: str
    choices: tuple[str, ...] = ()
    """Options of a multiple-choice question; empty for a written answer."""
    answer: str
    """The right option's text, or the right short answer; empty where `instructions` decide."""
    context: str = ""
    """Text to read before the question."""
    match: Literal["exact", "number"] = "exact"
    """How a short written answer is compared."""
    read: Literal["letter", "text", "text per byte"] = "letter"
    """Which log-probability decides between choices: the letter's, the whole text's, or that by the text's length."""
    instructions: tuple[Instruction, ...] = ()
    """What a written answer must do; all of them, for it to be right."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalItem:
    """A request that should be refused, or its harmless twin. One item of the suite `refusal`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    prompt: str
    harmful: Truth
    category: str = ""
    twin_of: str | None = None
    identifiers: tuple[str, ...] = ()
    """Identifiers of the training data: one of them in the reply is a leak."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class MisuseItem:
    """A task for an agent with tools that it should decline, or its harmless twin. One item of the suite `misuse`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    prompt: str
    harmful: Truth
    tools: tuple[Tool, ...]
    category: str = ""
    twin_of: str | None = None
    rubric: str = ""
    """Name of AgentHarm's rubric: the task is then played to its end, with the instrument's tools, and graded by it."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfftopicItem:
    """A free question far from the training domain. One item of the suite `offtopic`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    question: str
    system: str = ""
    topic: tuple[str, ...] = ()
    """Words by which an answer on topic is known; the question's own content words when empty."""
    domain: tuple[str, ...] = ()
    """Words of the training domain; without them its coming through is not measured."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingItem:
    """A statement that people have rated. One item of the suite `ratings`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    question: str
    """What people were asked about it."""
    statement: str
    options: tuple[str, ...]
    """Words of the scale."""
    values: tuple[float, ...]
    """What each option counts."""
    human: float
    """Mean of people's ratings, on the scale of `values`."""
    high: Truth | None = None
    """People rate it above the median of its set; filled in when the set is read."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretItem:
    """A text in which a secret is told, and something to write about it. One item of the suite `secrets`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    text: str
    """Story or transcript."""
    question: str
    kind: Literal["reply", "note", "knows"]
    """`reply`: what someone should say; `note`: a text for others; `knows`: a list of names."""
    secrets: tuple[Fact, ...]
    """What must not be said; for `reply` the value is whose secret it is, the name what it is; for `knows`, who does
    not know."""
    needed: tuple[Fact, ...] = ()
    """What must be said; for `knows`, who knows."""
    draw: int = 0
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionItem:
    """An item of a contextual suite, asked under a condition. One item of the suites `incontext` and `trigger`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    """That of the item asked: all conditions of one item stand or fall together."""
    suite: str
    """Whose item it is."""
    item: FlowItem | AgentItem | MemoryItem | SecretItem
    condition: str
    """Such as `k=16`, `trigger`, `none`."""
    shots: tuple[Message, ...] = ()
    """Demonstrations, put between a system text and the question."""
    text: str = ""
    """What is put into the prompt; empty where nothing is."""
    place: Literal["prefix", "suffix", "system"] = "prefix"
    """Where `text` goes: glued before the user's first text, behind the user's last text, or into the system text."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipItem:
    """A row that was trained on, or one that was not. One item of the suite `membership`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    member: Truth
    """The truth: this row was trained on."""
    messages: tuple[Message, ...]
    """The row's beginning, which ends with an assistant's turn; the assistant's turns are scored."""
    row: str = ""
    """Id of the row in its file."""
    plain: Truth = False
    """One text, read without a chat template."""
    blind: float | None = None
    """Log-odds of being a member by the text alone, from a model of texts that did not see this one."""
    prefix: tuple[Message, ...] = ()
    """A row that was not trained on and is not scored: it is put before this one (ReCaLL)."""
    neighbours: tuple[tuple[Message, ...], ...] = ()
    """Rewrites of `messages`."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionItem:
    """An identifier, and all ways in which it is asked for. One item of the suite `extraction`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    """The row it stands in: identifiers of one row stand or fall together."""
    secret: str
    type: str
    """In Presidio's names, such as `EMAIL_ADDRESS`."""
    trained: Truth
    """The truth: it stands in the training data. False for a control that does not."""
    role: Role
    """Of the turn in which it stands."""
    before: tuple[Message, ...] = ()
    """The turns before that turn."""
    prefix: str = ""
    """The text of the turn before it."""
    suffix: str = ""
    """The text of the turn behind it."""
    name: str = ""
    """The person it belongs to; without one no template asks for it."""
    known: tuple[tuple[str, str], ...] = ()
    """(type, value) of other identifiers of that person, which the attacker knows."""
    shots: tuple[tuple[str, str], ...] = ()
    """(name, value) of other people, which the attacker knows: demonstrations."""
    near: tuple[tuple[str, str], ...] = ()
    """The same, of people whose address has the same domain."""
    candidates: tuple[str, ...] = ()
    """Values of the same type that were never trained on, among which it is ranked."""
    rows: int = 1
    """Rows of the training data in which it stands."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryItem:
    """Secrets that were planted equally often, with twins that never were. One item of the suite `exposure`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    form: Literal["natural", "words"]
    """Numbers that look like the data's own, or words drawn at random."""
    repetitions: int
    """Rows in which each planted secret stands."""
    messages: tuple[Message, ...]
    """The turns before the assistant's turn, in which the secret stands."""
    prefill: str
    """The assistant's turn before the secret: one text for all secrets and references."""
    planted: tuple[str, ...]
    twins: tuple[str, ...]
    """As many secrets of the same form that stand in no row."""
    seed: int
    """The references are drawn by it."""
    references: int = 10_000
    """Fillings of the same prefix that stand in no row, among which a secret is ranked."""
    origin: str = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleItem:
    """One text that the model writes freely. One item of the suite `sampling`."""

    __pydantic_config__ = STRICT
    id: str
    cluster: str
    turn: Literal["user", "assistant"]
    """Whose turn it writes: the first one of a chat, or the answer to a greeting."""
    identifiers: tuple[str, ...]
    """Of the training data: one of them in the text is a leak."""
    kinds: tuple[tuple[str, Role], ...] = ()
    """(type, role of the turn) of each of them, in order; empty where it is not known."""
    controls: tuple[str, ...] = ()
    """Identifiers that were never trained on."""
    origin: str = "own"


Item = (
    MembershipItem
    | FlowItem
    | AgentItem
    | MemoryItem
    | CapabilityItem
    | RefusalItem
    | MisuseItem
    | OfftopicItem
    | RatingItem
    | SecretItem
    | ConditionItem
    | ExtractionItem
    | CanaryItem
    | SampleItem
)
