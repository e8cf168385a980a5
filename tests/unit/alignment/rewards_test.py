"""Rewards: what each gives for small answers, and what is said when it cannot."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.alignment.rewards import (
    EndpointReward,
    HelpfulAndSafe,
    Reward,
    WeightedSum,
    contains_reward,
    endpoint,
    exact_reward,
    format_reward,
    function_reward,
    length_reward,
    regex_reward,
)
from graftlm.core.errors import DataError, GraftError, RecipeError
from graftlm.core.offline import offline
from graftlm.data.samples import Origin, Prompt, Turn

O = Origin("rows.jsonl", 3)


def prompt(text: str = "q", *answers: str, unsafe: bool = False) -> Prompt:
    return Prompt((Turn("user", text),), O, answers, unsafe)


# --- rules -----------------------------------------------------------------------------------------------


def test_accepted_answers() -> None:
    prompts = [prompt("q", "5 mg", "five mg")] * 4
    answers = ["５ MG。", "five mg", "Take 5 mg daily", "15 mg"]
    assert exact_reward(prompts, answers) == [1, 1, 0, 0]
    assert contains_reward(prompts, answers) == [1, 1, 1, 0]


@pytest.mark.parametrize("reward", [exact_reward, contains_reward])
def test_a_prompt_without_accepted_answers_is_refused(reward: Reward) -> None:
    with pytest.raises(DataError, match="no accepted answer") as caught:
        reward([prompt("q", "a"), prompt()], ["a", "a"])
    assert caught.value.where == "rows.jsonl:3" and caught.value.fix


def test_format_is_of_the_whole_answer_and_regex_of_a_part() -> None:
    answers = ["\n<think>one\ntwo</think>\n5 \n", "so: <think>x</think>5", "<think></think>5", ""]
    form = r"<think>.+</think>\s*\d+"
    assert format_reward(form)([prompt()] * 4, answers) == [1, 0, 0, 0]
    assert regex_reward(r"</think>\d")([prompt()] * 4, answers) == [0, 1, 1, 0]


@pytest.mark.parametrize("make", [format_reward, regex_reward])
def test_a_broken_expression_is_named_at_once(make: Callable[[str], Reward]) -> None:
    with pytest.raises(RecipeError, match=r"'ab\(c' is broken at character 3: missing \)") as caught:
        make("ab(c")
    assert caught.value.fix


def test_length_counts_words_of_both_languages() -> None:
    answers = ["one two three", "one, two, three, four!", "每日一次", "每日一次口服药物", "", "a " * 3000]
    rewards = length_reward(4)([prompt()] * 6, answers)
    assert rewards == [0, 0, 0, -0.5, 0, -2996 / 3000]


# --- functions -------------------------------------------------------------------------------------------

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Source → the module's name; the module lies in the current folder, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    made = []

    def save(source: str) -> str:
        name = f"own_rewards_{tmp_path.name.replace('-', '_')}_{len(made)}"
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        made.append(name)
        return name

    yield save
    for name in made:
        sys.modules.pop(name, None)


def test_a_function_of_the_current_folder(write: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    module = write("def words(prompts, answers):\n    return [len(answer.split()) for answer in answers]\n")
    reward = function_reward(f"{module}:words")
    assert sys.path[-1] == str(tmp_path) and sys.path.count(str(tmp_path)) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert f"`{module}` is taken from the current folder" in printed
    assert reward([prompt(), prompt()], ["a b", "c"]) == [2.0, 1.0]
    assert all(type(one) is float for one in reward([prompt()], ["a"]))
    function_reward(f"{module}:words")
    assert sys.path.count(str(tmp_path)) == 1 and not capsys.readouterr().out


def test_an_installed_function_leaves_the_path_alone(write: Write) -> None:
    before = list(sys.path)
    with pytest.raises(RecipeError, match="cannot be called"):
        function_reward("json:JSONDecoder")
    assert sys.path == before


def test_a_function_gets_plain_values(write: Write) -> None:
    module = write(
        "seen = []\n"
        "def score(prompts, answers, accepted=None):\n    seen.append((prompts, answers, accepted))\n"
        "    return [0.0] * len(answers)\n"
        "def bare(prompts, answers, temperature=1):\n    seen.append((prompts, answers))\n    return [0] * 2\n"
    )
    two = Prompt((Turn("system", "s"), Turn("user", "q")), O, ("a", "b"))
    for name in ("score", "bare"):
        function_reward(f"{module}:{name}")([two, prompt("r")], ("x", "y"))
    messages = [
        [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        [{"role": "user", "content": "r"}],
    ]
    assert sys.modules[module].seen == [(messages, ["x", "y"], [["a", "b"], []]), (messages, ["x", "y"])]
    assert [type(one) for one in sys.modules[module].seen[0][:2]] == [list, list]


LISTS = ["np.array([1, 2])", "torch.tensor([1.0, 2.0])", "(1, 2)", "[torch.tensor(1), np.float32(2)]"]


@pytest.mark.parametrize("value", LISTS)
def test_arrays_and_tensors_are_rewards(write: Write, value: str) -> None:
    module = write(f"import numpy as np\nimport torch\ndef f(prompts, answers):\n    return {value}\n")
    assert function_reward(f"{module}:f")([prompt()] * 2, ["a", "b"]) == [1.0, 2.0]


BAD_RETURNS = [
    ("None", "returned None, which is no list"),
    ("'ab'", "returned 'ab', which is no list"),
    ("{1: 2, 3: 4}", "which is no list"),
    ("[1.0]", "returned 1 rewards for 2 answers"),
    ("[1, float('nan')]", "returned nan as reward 2 of 2"),
    ("[float('inf'), 1]", "returned inf as reward 1 of 2"),
    ("[1, '2']", "returned '2' as reward 2"),
    ("[None, 1]", "returned None as reward 1"),
    ("[[1], [2]]", r"returned \[1\] as reward 1"),
    ("[10 ** 999, 1]", "as reward 1 of 2, which is no finite number"),
]


@pytest.mark.parametrize(("value", "reason"), BAD_RETURNS)
def test_other_returns_are_refused(write: Write, value: str, reason: str) -> None:
    module = write(f"def f(prompts, answers):\n    return {value}\n")
    with pytest.raises(GraftError, match=reason) as caught:
        function_reward(f"{module}:f")([prompt()] * 2, ["a", "b"])
    assert caught.value.where == f"{module}:f" and caught.value.fix


def test_an_exception_is_told_with_its_line(write: Write, tmp_path: Path) -> None:
    module = write("import json\n\ndef f(prompts, answers):\n    return [json.loads(answer) for answer in answers]\n")
    with pytest.raises(GraftError) as caught:
        function_reward(f"{module}:f")([prompt()], ["{"])
    assert "JSONDecodeError: Expecting property name" in caught.value.reason
    assert f"({tmp_path / module}.py:4: return [json.loads(answer) for answer in answers])" in caught.value.reason
    assert "Traceback" not in str(caught.value) and caught.value.where == f"{module}:f"
    assert isinstance(caught.value.__cause__, json.JSONDecodeError)


def test_an_object_that_can_be_called(write: Write, tmp_path: Path) -> None:
    module = write("class F:\n    def __call__(self, prompts, answers):\n        raise KeyError('x')\nf = F()\n")
    with pytest.raises(GraftError) as caught:
        function_reward(f"{module}:f")([prompt()], ["a"])
    assert f"KeyError: 'x' ({tmp_path / module}.py:3: raise KeyError('x'))" in caught.value.reason


def test_graftlm_errors_of_a_function_pass(write: Write) -> None:
    module = write(
        "import socket\ndef f(prompts, answers):\n    socket.create_connection(('127.0.0.1', 9))\n"
    )
    with offline(), pytest.raises(GraftError, match="offline: true"):
        function_reward(f"{module}:f")([prompt()], ["a"])


def test_paths_that_lead_nowhere(write: Write, tmp_path: Path) -> None:
    module = write("number = 5\ndef politeness(prompts, answers): ...\ndef one(prompts): ...\n")
    broken = [write("import surely_not_installed\n"), write("def f(:\n"), write("x = 1\ny = x / 0\n")]
    cases = {
        "no path": "no dotted path",
        "module": "no dotted path",
        "module:": "no dotted path",
        ":name": "no dotted path",
        "my-rewards:f": "no dotted path",
        "surely_not_there:f": "no module `surely_not_there`, neither installed nor in",
        "json.surely_not_there:f": "no module `json.surely_not_there`",
        f"{module}:politness": "has no `politness`",
        f"{module}:number": "`number` is no function but a int",
        f"{module}:one": "cannot be called with prompts and answers: too many positional arguments",
        f"{broken[0]}:f": f"No module named 'surely_not_installed' ({tmp_path / broken[0]}.py:1: import surely",
        f"{broken[1]}:f": f"SyntaxError: invalid syntax ({tmp_path / broken[1]}.py:1)",
        f"{broken[2]}:f": f"ZeroDivisionError: division by zero ({tmp_path / broken[2]}.py:2: y = x / 0)",
    }
    for path, reason in cases.items():
        with pytest.raises(RecipeError) as caught:
            function_reward(path)
        assert reason in caught.value.reason, path
        assert caught.value.where == path and caught.value.fix
    with pytest.raises(RecipeError, match=f"did you mean `{module}:politeness`"):
        function_reward(f"{module}:politness")


# --- endpoint --------------------------------------------------------------------------------------------


class Server(HTTPServer):
    """Answers requests with the given (status, body) one after the other, the last one for ever."""

    replies: list[tuple[int, str]]
    seen: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        assert self.headers["Content-Type"] == "application/json"
        self.server.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, body = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        if status == 0:  # hang up
            return
        body = body or json.dumps({"rewards": [len(answer) for answer in self.server.seen[-1]["answers"]]})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "*")
    made = Server(("127.0.0.1", 0), Handler)
    made.replies, made.seen = [(200, "")], []
    thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/reward"


def test_an_endpoint_is_asked_in_batches(server: Server) -> None:
    answers = ["药" * (number % 7) for number in range(150)]
    rewards = EndpointReward(url_of(server))([prompt(str(number)) for number in range(150)], answers)
    assert rewards == [float(number % 7) for number in range(150)]
    assert [len(one["answers"]) for one in server.seen] == [64, 64, 22]
    assert server.seen[1]["prompts"][0] == [{"role": "user", "content": "64"}]
    assert [answer for one in server.seen for answer in one["answers"]] == answers
    assert EndpointReward(url_of(server))([], []) == []


def test_scores_are_rewards(server: Server) -> None:
    server.replies = [(200, '{"object": "score.evaluation", "scores": [0.5, -1]}')]
    assert EndpointReward(url_of(server))([prompt()] * 2, ["a", "b"]) == [0.5, -1.0]


@pytest.mark.parametrize("failures", [[(503, "busy")], [(0, "")], [(500, "x"), (0, ""), (502, "y")]])
def test_failures_that_pass(server: Server, failures: list[tuple[int, str]]) -> None:
    server.replies = [*failures, (200, "")]
    assert EndpointReward(url_of(server))([prompt()], ["abc"]) == [3.0]
    assert len(server.seen) == len(failures) + 1


REPLIES = [
    (503, "busy " * 100, "answered 503 Service Unavailable: 'busy busy", 4),
    (404, "no such page", "answered 404 Not Found: 'no such page'", 1),
    (200, "<html>", "answered no JSON: '<html>'", 1),
    (200, "[1, 2]", "without \"rewards\": '[1, 2]'", 1),
    (200, '{"result": [1]}', "without \"rewards\"", 1),
    (200, '{"rewards": [1]}', "answered 1 rewards for 2 answers: '{\"rewards\": [1]}'", 1),
    (200, '{"rewards": [1, NaN]}', "nan as reward 2 of 2", 1),
    (200, '{"rewards": [1, "x"]}', "'x' as reward 2 of 2", 1),
    (200, '{"rewards": 5}', "answered 5, which is no list", 1),
    (0, "", "did not answer in 4 attempts", 4),
]


@pytest.mark.parametrize(("status", "body", "reason", "requests"), REPLIES)
def test_replies_that_are_refused(server: Server, status: int, body: str, reason: str, requests: int) -> None:
    server.replies = [(status, body)]
    with pytest.raises(GraftError) as caught:
        EndpointReward(url_of(server))([prompt()] * 2, ["a", "b"])
    assert reason in caught.value.reason
    assert caught.value.where == url_of(server) and caught.value.fix
    assert len(caught.value.reason) < 300 and len(server.seen) == requests


def test_nobody_answers(server: Server) -> None:
    closed = Server(("127.0.0.1", 0), Handler)
    url = url_of(closed)
    closed.server_close()
    with pytest.raises(GraftError, match=r"did not answer in 2 attempts \(ConnectionRefusedError"):
        EndpointReward(url, retries=1)([prompt()], ["a"])


def test_offline_asks_nobody(server: Server) -> None:
    with offline(), pytest.raises(GraftError, match="offline: true") as caught:
        EndpointReward(url_of(server))([prompt()], ["a"])
    assert caught.value.where == url_of(server) and not server.seen


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://host/x", "http://", "http://host:port/", "http://host/ä b"])
def test_no_http_address(url: str) -> None:
    with pytest.raises(RecipeError, match="no http address"):
        EndpointReward(url)


# --- combinations ----------------------------------------------------------------------------------------


def given(*rewards: float) -> Reward:
    def reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        return list(rewards)

    return reward


def test_weighted_sum() -> None:
    total = WeightedSum([(1.0, given(1, 2)), (-0.5, given(2, 4)), (0.25, length_reward(1))])
    assert total([prompt()] * 2, ["a", "a b"]) == [0.0, -0.125]
    with pytest.raises(RecipeError, match="no reward"):
        WeightedSum([])
    with pytest.raises(RecipeError, match="nan"):
        WeightedSum([(math.nan, given(1))])


def test_safety_judges_unsafe_prompts_and_unsafe_answers() -> None:
    rng = np.random.default_rng(3)
    helpful, safe = rng.normal(0, 3, 400), rng.normal(0, 3, 400)
    unsafe = rng.random(400) < 0.3
    prompts = [prompt(unsafe=bool(one)) for one in unsafe]
    rewards = HelpfulAndSafe(given(*helpful), given(*safe))(prompts, ["a"] * 400)
    # The paper's rule, word for word, on probabilities in double precision.
    p_helpful, p_safe = (torch.sigmoid(torch.tensor(one)) for one in (helpful, safe))
    combined = torch.where(torch.tensor(unsafe) | (p_safe < 0.15), p_safe, p_helpful)
    assert rewards == pytest.approx(torch.logit(combined).tolist(), abs=1e-9)
    assert set(rewards) <= set(helpful) | set(safe)  # and not a digit of them lost
    assert sum(one in set(safe) for one in rewards) > unsafe.sum()


def test_far_rewards_and_the_ends_of_the_threshold() -> None:
    far, prompts = (given(900.0, 7.0), given(-900.0, 900.0)), [prompt(), prompt()]
    assert HelpfulAndSafe(*far)(prompts, ["a", "b"]) == [-900.0, 7.0]
    assert HelpfulAndSafe(*far, threshold=0)(prompts, ["a", "b"]) == [900.0, 7.0]
    assert HelpfulAndSafe(*far, threshold=1)(prompts, ["a", "b"]) == [-900.0, 900.0]
    with pytest.raises(RecipeError, match="15"):
        HelpfulAndSafe(*far, threshold=15)
