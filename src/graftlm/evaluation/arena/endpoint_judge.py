"""A judge behind an OpenAI-compatible address: a company's, or a server of one's own (vLLM, llama.cpp, Ollama)."""

from __future__ import annotations

import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.message import Message
from typing import Any

from graftlm.core.addresses import is_http_address
from graftlm.core.errors import GraftError
from graftlm.evaluation.arena.judges import Messages, Reply

LONGEST_PAUSE = 60.0
"""Seconds between two attempts, at most, also where the server asks for more."""

BUSY = (408, 409, 425, 429)
"""Statuses below 500 that may pass."""


@dataclass(frozen=True)
class EndpointSettings:
    """How to ask an address.

    Attributes:
        url: up to and without `/chat/completions`, as https://api.openai.com/v1.
        model: the name that the server knows it by.
        key_variable: environment variable that holds the key; none is sent where it is not set.
        temperature, max_tokens: of a judgement.
        timeout: seconds to wait for one reply.
        retries: how often a request is repeated that failed, after `pause`, 2 × pause, 4 × pause … seconds.
        parallel: requests at a time.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = 0.0
    max_tokens: int = 2048
    timeout: float = 120.0
    retries: int = 5
    pause: float = 1.0
    parallel: int = 4


class EndpointJudge:
    """Posts conversations to an address and reads the replies.

    Lost connections, late answers, replies that cannot be read, statuses from 500 on and 429 are tried again; any other
    status ends the work. The key goes to this address only: redirections are not followed.

    Raises:
        GraftError: this is no http address.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        if not is_http_address(settings.url):
            fix = "write the whole address, as http://127.0.0.1:8000/v1"
            raise GraftError("the judge's address is no http address", where=settings.url, fix=fix)
        self.name, self._settings = settings.model, settings
        self._address = settings.url.rstrip("/") + "/chat/completions"
        self._opener = urllib.request.build_opener(_NoRedirection)

    def identity(self) -> dict[str, Any]:
        s = self._settings
        return {"url": self._address, "model": s.model, "temperature": s.temperature, "max_tokens": s.max_tokens}

    def ask(self, conversations: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """Some at a time; after a failure no further ones are begun, those under way are still yielded."""
        if not conversations:
            return
        failure: GraftError | None = None
        stop = threading.Event()  # futures that are cancelled would never be reported by as_completed
        with ThreadPoolExecutor(self._settings.parallel) as pool:
            places = {pool.submit(self._asked, one, stop): place for place, one in enumerate(conversations)}
            try:
                for done in as_completed(places):
                    try:
                        reply = done.result()
                    except GraftError as error:
                        failure = failure or error
                        stop.set()
                        continue
                    if reply is not None:
                        yield places[done], reply
            finally:
                stop.set()
        if failure is not None:
            raise failure

    def _asked(self, messages: Messages, stop: threading.Event) -> Reply | None:
        """None where the work was stopped before this began, or before it could be tried again."""
        s = self._settings
        body = {"model": s.model, "messages": messages, "temperature": s.temperature, "max_tokens": s.max_tokens}
        content = json.dumps(body).encode()
        reason, pause = "", 0.0
        for attempt in range(s.retries + 1):
            if stop.wait(pause):
                return None
            try:
                return _read(self._posted(content))
            except urllib.error.HTTPError as error:
                reason = f"it answered {error.code} {error.reason}: {_beginning(error)}"
                if error.code < 500 and error.code not in BUSY:
                    raise self._refused(error.code, reason) from None
                pause = _retry_after(error)
            except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
                cause = getattr(error, "reason", None) or error
                reason, pause = f"{type(cause).__name__}: {cause}".removesuffix(": "), 0.0
            pause = min(LONGEST_PAUSE, max(pause, s.pause * 2**attempt))
        raise GraftError(
            f"the judge gave no usable reply in {s.retries + 1} attempts ({reason})", where=self._address,
            fix="run the same command again later: what was judged is kept; --timeout and --parallel may help",
        )  # fmt: skip

    def _posted(self, content: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self._settings.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._address, content, headers, method="POST")
        with self._opener.open(request, timeout=self._settings.timeout) as reply:
            body: bytes = reply.read()
            return body

    def _refused(self, code: int, reason: str) -> GraftError:
        fixes = {
            401: f"put the key into the environment variable {self._settings.key_variable}",
            403: f"put a key that may use this model into the environment variable {self._settings.key_variable}",
            404: "check the address (it ends before /chat/completions) and the model's name",
        }
        fix = fixes.get(code, "check the address, the model's name, and how long the conversations may be")
        return GraftError(f"the judge refused: {reason}", where=self._address, fix=fix)


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _read(body: bytes) -> Reply:
    """Raise ValueError where the body is no chat completion; a message without content is an empty reply."""
    try:
        reply = json.loads(body)
        text = reply["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError(f"no chat completion: {body[:200]!r}") from None
    if text is not None and not isinstance(text, str):
        raise ValueError(f"a message that is no text: {body[:200]!r}")
    usage = reply.get("usage") or {}
    return Reply(text or "", usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that the server asks to wait; dates are not read."""
    value = error.headers.get("Retry-After", "") if error.headers else ""
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _beginning(error: urllib.error.HTTPError) -> str:
    try:
        with error:
            text = error.read(200).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""  # it broke off; the status says enough
    return repr(text) if text else "nothing"
