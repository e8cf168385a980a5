"""A reward that another program gives over http."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from graftlm.alignment.rewards.functions import checked_rewards, plain_messages
from graftlm.core.addresses import is_http_address
from graftlm.core.errors import GraftError, RecipeError
from graftlm.data.samples import Prompt

BATCH = 64
"""Answers of one request."""

FIRST_PAUSE = 0.5
"""Seconds before a request is tried again; each further pause is twice as long."""

_FORM = 'the server must answer {"prompts": [[{"role", "content"}, ...], ...], "answers": [...]} with ' \
        '{"rewards": [...]}, one finite number for each answer'  # fmt: skip


class EndpointReward:
    """Asks an address for the rewards, 64 answers at a time.

    Posted: {"prompts": [[{"role": ..., "content": ...}, ...], ...], "answers": [...]}, as JSON. Expected:
    {"rewards": [...]}, one finite number for each answer; "scores" is read as "rewards" (LLaMA-Factory's reward
    servers say so). A server that cannot be reached, breaks off or fails (5xx) is asked again.

    Args:
        url: http or https.
        timeout: seconds to wait for the server.
        retries: how often a request is repeated, after 0.5, 1, 2, ... seconds.

    Raises:
        RecipeError: this is no http address.
        GraftError: when called: no connection (with `offline: true`, never one), an error status, or rewards that
            are missing, not finite or of another number than the answers.
    """

    def __init__(self, url: str, timeout: float = 60, retries: int = 3) -> None:
        if not is_http_address(url):
            fix = "write the whole address, for instance http://127.0.0.1:8000/reward"
            raise RecipeError("the reward endpoint is no http address", where=url, fix=fix)
        self.url, self.timeout, self.retries = url, timeout, retries

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        rewards: list[float] = []
        for start in range(0, len(answers), BATCH):
            rewards += self._batch(prompts[start : start + BATCH], answers[start : start + BATCH])
        return rewards

    def _batch(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        body = json.dumps({"prompts": plain_messages(prompts), "answers": list(answers)}).encode()
        text = self._posted(body).decode("utf-8", errors="replace")
        try:
            reply = json.loads(text)
        except ValueError:
            raise self._fault(f"the reward endpoint answered no JSON: {_beginning(text)}", _FORM) from None
        returned = _rewards_in(reply)
        if returned is None:
            raise self._fault(f'the reward endpoint answered without "rewards": {_beginning(text)}', _FORM)
        try:
            return checked_rewards(returned, len(answers))
        except ValueError as error:
            raise self._fault(f"the reward endpoint answered {error}: {_beginning(text)}", _FORM) from None

    def _posted(self, body: bytes) -> bytes:
        """The reply's bytes; failures that may pass are tried again."""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                return self._asked(body)
            except urllib.error.HTTPError as error:
                fault, passing = self._refusal(error), error.code >= 500
            except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
                fault, passing = self._silence(error), True
            if not passing:
                break
        raise fault

    def _asked(self, body: bytes) -> bytes:
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                content: bytes = reply.read()
                return content
        except GraftError:
            reason = "the reward endpoint cannot be asked although the recipe says `offline: true`"
            fix = "set `offline: false`, or take a reward that runs here: a model, a function or a rule"
            raise self._fault(reason, fix) from None

    def _refusal(self, error: urllib.error.HTTPError) -> GraftError:
        try:
            with error:
                text = error.read().decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException):
            text = ""  # it broke off; the status says enough
        reason = f"the reward endpoint answered {error.code} {error.reason}: {_beginning(text)}"
        return self._fault(reason, f"see the server's log; {_FORM}")

    def _silence(self, error: Exception) -> GraftError:
        cause = getattr(error, "reason", None) or error
        told = f"{type(cause).__name__}: {cause}".removesuffix(": ")
        reason = f"the reward endpoint did not answer in {self.retries + 1} attempts ({told})"
        return self._fault(reason, "start the server, and check the address and the time it takes for 64 answers")

    def _fault(self, reason: str, fix: str) -> GraftError:
        return GraftError(reason, where=self.url, fix=fix)


def _rewards_in(reply: Any) -> Any:
    if not isinstance(reply, dict):
        return None
    return reply.get("rewards", reply.get("scores"))


def _beginning(text: str) -> str:
    return repr(text[:200]) if text else "nothing"
