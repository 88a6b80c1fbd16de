"""One OpenAI-compatible server: how it is asked, how fast, how often, and for how much.

A call ends in a whole JSON answer or, after a bounded number of attempts, in a named problem, never in something
between. The key comes from the environment and is kept nowhere; what a server writes beside an answer is never shown.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from discretion.errors import MissingExtra, ModelError, RunFailure
from discretion.progress import PLAIN_LINE_EVERY, Progress

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY = "OPENAI_API_KEY"
HOSTED = "api.openai.com"
"""The one host that is known to answer nobody without a key."""
TRIES = 6
"""Attempts per request."""
PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second attempt, doubled for each further one; each shortened by up to a half, at random."""
LONGEST_WISH = 300.0
"""Seconds a server may ask for with Retry-After; one that wants more has said no."""
IN_A_ROW = 8
"""So many requests in a row without an answer, and the endpoint counts as gone: the run stops, and can go on later."""
RESUMES = "what was measured is kept, and the same command resumes it"


# ------------------------------------------------------------------------------------------------ limits, account


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How hard the endpoint may be asked, and for how much."""

    concurrency: int
    """Requests on their way at a time."""
    per_minute: float | None
    timeout: float
    """Seconds for one attempt, from connection to last byte."""
    max_cost: float | None
    price_input: float | None
    """Per million tokens, in the currency of `max_cost`."""
    price_output: float | None


@dataclass(slots=True)
class Account:
    """What this session has used. An attempt whose answer was lost is counted at its upper bound: it may be billed."""

    limits: Limits
    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    reserved: float = 0.0
    """Upper bound of the cost of what is on its way."""
    underway: int = 0

    def cost(self, prompt: int, output: int) -> float:
        """0 where there are no prices."""
        return (prompt * (self.limits.price_input or 0.0) + output * (self.limits.price_output or 0.0)) / 1e6

    @property
    def spent(self) -> float:
        return self.cost(self.prompt_tokens, self.output_tokens)

    def add(self, prompt: int, output: int) -> None:
        self.prompt_tokens += prompt
        self.output_tokens += output

    def facts(self) -> dict[str, Any]:
        """As plain JSON values for the manifest."""
        found: dict[str, Any] = {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
        }
        if self.limits.price_input is not None or self.limits.price_output is not None:
            found["cost"] = round(self.spent, 6)
        return found

    def __str__(self) -> str:
        said = f"{self.requests} requests, {self.prompt_tokens} + {self.output_tokens} tokens"
        if "cost" in self.facts():
            said += f", cost {self.spent:.4f}"
        return said if self.limits.max_cost is None else f"{said} of {self.limits.max_cost:g}"


@dataclass(slots=True)
class Bucket:
    """A token bucket: one second's worth of requests may go at once, then as many as flow in."""

    per_second: float
    level: float = 1.0
    looked: float = 0.0

    def wait(self, now: float) -> float:
        """Seconds until the next request may go; 0 takes its token."""
        self.level = min(max(1.0, self.per_second), self.level + (now - self.looked) * self.per_second)
        self.looked = now
        if self.level >= 1.0:
            self.level -= 1.0
            return 0.0
        return (1.0 - self.level) / self.per_second


# ------------------------------------------------------------------------------------------------ one attempt


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the endpoint takes it."""

    body: Mapping[str, Any]
    prompt_bound: int
    output_bound: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole JSON object that came with status 200."""

    body: Mapping[str, Any]
    seconds: float

    def usage(self, name: str) -> int | None:
        found = mapping(self.body.get("usage")).get(name)
        return found if isinstance(found, int) and found >= 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why there is no answer. Nothing of what the server wrote is in it but a code: servers echo keys and prompts."""

    reason: str
    advice: str = "try again later"
    status: int | None = None
    retry: bool = False
    wait: float | None = None
    """Seconds that the server asked for."""
    fatal: bool = False
    """Every other request would meet it as well."""
    billed: bool = False
    """It may cost what an answer costs."""


async def _attempt(client: AsyncOpenAI, call: Call, timeout: float) -> Answer | Problem:
    import openai

    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            raw = await client.chat.completions.with_raw_response.create(**call.body)
    except TimeoutError:
        return Problem(
            reason=f"no answer within {timeout:g} s",
            advice="try again later, or give a higher --timeout",
            retry=True,
            billed=True,
        )
    except openai.APIConnectionError as error:
        reached = not type(error.__cause__).__name__.startswith("Connect")
        return Problem(
            reason="the connection broke" if reached else "no connection",
            advice="start the server, or give the right --base-url",
            retry=True,
            billed=reached,
        )
    except openai.APIStatusError as error:
        return _refusal(error.status_code, error.body, error.response.headers)
    except UnicodeEncodeError:
        return Problem(reason="the request holds half a character", advice="repair the item's text")
    try:
        body = json.loads(raw.http_response.content)
    except ValueError:
        return Problem(
            reason="the answer is no whole JSON",
            advice="give the --base-url of the API itself",
            retry=True,
            billed=True,
        )
    if not isinstance(body, dict):
        return Problem(
            reason="the answer is no JSON object", advice="give the --base-url of the API itself", billed=True
        )
    return Answer(body, time.monotonic() - began)


def _refusal(status: int, body: object, headers: Mapping[str, str]) -> Problem:
    code = str(mapping(body).get("code") or "")
    code = code if re.fullmatch(r"[a-z_]{3,40}", code) else ""
    reason = f"status {status} {code}".rstrip()
    if status in (401, 403):
        advice = f"set {KEY} in the environment to a key that may use this model"
        return Problem(reason=f"the key is refused ({reason})", advice=advice, status=status, fatal=True)
    if status == 404:
        advice = "check the model's name, and that --base-url is the API's root, such as https://host/v1"
        return Problem(reason=f"no such model or path ({reason})", advice=advice, status=status, fatal=True)
    if code == "insufficient_quota":
        return Problem(reason=f"the quota is used up ({reason})", advice="top it up", status=status, fatal=True)
    if status == 429 or status >= 500 or status in (408, 409):
        wait = _wish(headers)
        return Problem(
            reason=f"the endpoint is not able to answer ({reason})",
            advice="try again later, or see the server's log: some answer so to a name they do not know",
            status=status,
            retry=wait is None or wait <= LONGEST_WISH,
            wait=wait,
        )
    return Problem(reason=f"the endpoint refuses the request ({reason})", advice="check what it accepts", status=status)


def _wish(headers: Mapping[str, str]) -> float | None:
    """Seconds in Retry-After, which may be a number or a date."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# ------------------------------------------------------------------------------------------------ many


@dataclass(slots=True)
class Endpoint:
    """One server with its limits and its account, for both arms."""

    url: str
    limits: Limits
    progress: Progress
    account: Account = field(init=False)
    bucket: Bucket | None = field(init=False)
    closed_until: float = 0.0
    told: float = 0.0
    unanswered: int = 0
    """Requests in a row."""

    def __post_init__(self) -> None:
        self.account = Account(self.limits)
        self.bucket = Bucket(self.limits.per_minute / 60) if self.limits.per_minute else None
        self.told = time.monotonic()

    def ask(
        self, calls: Sequence[Call], settle: Callable[[int, Answer | Problem], None], *, tries: int | None = None
    ) -> None:
        """Every call to its answer, or to the problem that is left after its last attempt.

        `settle` is called in the calling thread, as calls finish; what it raises ends the rest.
        Raises `RunFailure` before a request that could pass `max_cost`.
        """
        if calls:
            asyncio.run(self._ask(calls, settle, TRIES if tries is None else tries))

    async def _ask(self, calls: Sequence[Call], settle: Callable[[int, Answer | Problem], None], tries: int) -> None:
        async with self._client() as client:
            queue = iter(enumerate(calls))
            lanes = [
                asyncio.create_task(self._lane(client, queue, settle, tries))
                for _ in range(min(self.limits.concurrency, len(calls)))
            ]
            try:
                done, _ = await asyncio.wait(lanes, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for lane in lanes:
                    lane.cancel()
                await asyncio.gather(*lanes, return_exceptions=True)
            for lane in done:
                lane.result()

    def _client(self) -> AsyncOpenAI:
        try:
            import openai
        except ModuleNotFoundError:
            raise MissingExtra("a model behind an endpoint", "openai", "remote") from None
        return openai.AsyncOpenAI(**client_options(self.url), max_retries=0, timeout=None)

    async def _lane(
        self,
        client: AsyncOpenAI,
        queue: Iterator[tuple[int, Call]],
        settle: Callable[[int, Answer | Problem], None],
        tries: int,
    ) -> None:
        for index, call in queue:
            for attempt in range(1, tries + 1):
                found = await self._once(client, call)
                if isinstance(found, Answer) or not found.retry or attempt == tries:
                    break
                pause = min(LONGEST_PAUSE, PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
                await asyncio.sleep(max(pause, found.wait or 0.0))
            settle(index, found)

    async def _once(self, client: AsyncOpenAI, call: Call) -> Answer | Problem:
        """One attempt, when rate and budget allow it, and its entry in the account."""
        account, bound = self.account, self.account.cost(call.prompt_bound, call.output_bound)
        while wait := self._wait(bound):
            await asyncio.sleep(wait)
        account.requests += 1
        account.reserved += bound
        account.underway += 1
        try:
            found = await _attempt(client, call, self.limits.timeout)
        except asyncio.CancelledError:
            account.add(call.prompt_bound, call.output_bound)
            raise
        finally:
            account.reserved -= bound
            account.underway -= 1
        if isinstance(found, Answer):
            prompt, output = found.usage("prompt_tokens"), found.usage("completion_tokens")
            account.add(
                call.prompt_bound if prompt is None else prompt, call.output_bound if output is None else output
            )
        elif found.billed:
            account.add(call.prompt_bound, call.output_bound)
        elif found.wait and found.retry:
            self.closed_until = max(self.closed_until, time.monotonic() + found.wait)
        if time.monotonic() - self.told >= PLAIN_LINE_EVERY:
            self.tell()
        return found

    def _wait(self, bound: float) -> float:
        """Seconds until a request of this cost may go; 0 when it may go now."""
        now, most, account = time.monotonic(), self.limits.max_cost, self.account
        if most is not None and account.spent + account.reserved + bound > most:
            if not account.underway:
                raise RunFailure(
                    f"--max-cost {most:g}: {account.spent:.4f} is spent in {account.requests} requests, and the next "
                    f"one could cost up to {bound:.4f}; {RESUMES} with the same sum anew"
                )
            return 0.02  # what is on its way is paid for, and will cost less than its bound
        if now < self.closed_until:
            return self.closed_until - now
        return self.bucket.wait(now) if self.bucket else 0.0

    def tell(self) -> None:
        """The account so far, as one line of progress."""
        self.told = time.monotonic()
        self.progress.note(f"endpoint: {self.account}")


def client_options(url: str) -> dict[str, Any]:
    """What a client of a server is opened with: the key, and headers that tell nothing about this machine."""
    import openai

    # the client tells every server its version and this machine's system, which is nobody's business
    told = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async", "Retry-Count")
    silent = {f"X-Stainless-{name}": openai.Omit() for name in told}
    return {"api_key": _key(url), "base_url": url, "default_headers": silent}


def _key(url: str) -> str:
    """From the environment; a server of one's own may need none."""
    key = os.environ.get(KEY, "").strip()
    if not key and HOSTED in url:
        raise ModelError(f"{url} answers nobody without a key, and {KEY} is not set; set it in the environment")
    if not key.isascii() or any(letter.isspace() for letter in key):
        raise ModelError(f"{KEY} holds a space or a letter that no key has; set it in the environment again")
    return key or "none"
