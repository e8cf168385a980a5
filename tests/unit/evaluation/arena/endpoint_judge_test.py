"""A judge behind an address, against a server of this machine that misbehaves as told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import GraftError
from graftlm.evaluation.arena.endpoint_judge import EndpointJudge, EndpointSettings
from graftlm.evaluation.arena.judges import Messages, RememberingJudge


class Server(ThreadingHTTPServer):
    """Answers request by request as `script` says; "ok" once that is at its end.

    Attributes:
        seen: (path, headers, body) of each request.
        paused: seconds between one request and the one before.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[str] = []
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.times.append(time.monotonic())
            server.seen.append((self.path, dict(self.headers), body))
            deed = server.script.pop(0) if server.script else "ok"
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self.act(deed, body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with server.lock:
                server.at_once -= 1

    def act(self, deed: str, body: dict[str, Any]) -> None:
        if deed == "break":
            self.connection.close()
            return
        if deed.startswith("slow"):
            time.sleep(float(deed[4:]))
        status, headers, text = 200, {}, completion("echo: " + body["messages"][-1]["content"])
        if deed.startswith("wait"):
            status, headers, text = 429, {"Retry-After": deed[4:]}, '{"error": "too many requests"}'
        elif deed.isdigit():
            status, text = int(deed), '{"error": "' + "no " * 100 + '"}'
        elif deed == "redirect":
            status, headers = 302, {"Location": "http://127.0.0.1:9/elsewhere"}
        elif deed.startswith("text:"):
            text = deed[5:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def completion(text: str) -> str:
    usage = {"prompt_tokens": 11, "completion_tokens": 3}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def judge(server: Server) -> Callable[..., EndpointJudge]:
    def make(**changes: Any) -> EndpointJudge:
        settings = {"url": server.url, "model": "big", "pause": 0.01, "retries": 2, "parallel": 1, "timeout": 5.0}
        return EndpointJudge(EndpointSettings(**settings | changes))

    return make


def said(*texts: str) -> list[Messages]:
    return [[{"role": "system", "content": "Judge."}, {"role": "user", "content": text}] for text in texts]


def test_what_is_sent_and_what_is_read(server: Server, judge: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    [(place, reply)] = judge(key_variable="MY_KEY", temperature=0.2, max_tokens=77).ask(said("你好"))
    assert (place, reply.text, reply.prompt_tokens, reply.answer_tokens) == (0, "echo: 你好", 11, 3)
    [(path, headers, body)] = server.seen
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body == {"model": "big", "messages": said("你好")[0], "temperature": 0.2, "max_tokens": 77}


def test_without_a_key_none_is_sent(server: Server, judge: Callable) -> None:
    list(judge().ask(said("x")))
    assert "Authorization" not in server.seen[0][1]


@pytest.mark.parametrize(
    "deed",
    ["429", "500", "503", "break", "text:no json", "text:{}", 'text:{"choices": []}', 'text:["choices"]', "slow0.4"],
)
def test_what_may_pass_is_tried_again(server: Server, judge: Callable, deed: str) -> None:
    server.script = [deed, deed]
    [(_, reply)] = judge(timeout=0.2).ask(said("x"))
    assert reply.text == "echo: x" and len(server.seen) == 3


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("429", "429"),
        ("500", "500"),
        ("text:no json", "no chat completion"),
        ("slow0.4", "timed out"),
        ("break", "Remote"),
    ],
)
def test_what_does_not_pass_is_told(server: Server, judge: Callable, deed: str, reason: str) -> None:
    server.script = [deed] * 3
    with pytest.raises(GraftError, match="no usable reply in 3 attempts") as error:
        list(judge(timeout=0.2).ask(said("x")))
    assert reason in error.value.reason and len(error.value.reason) < 400 and error.value.fix


@pytest.mark.parametrize(
    ("status", "says"), [("400", "400"), ("401", "OPENAI_API_KEY"), ("404", "address"), ("redirect", "302")]
)
def test_a_refusal_is_not_tried_again(server: Server, judge: Callable, status: str, says: str) -> None:
    server.script = [status]
    with pytest.raises(GraftError, match="the judge refused") as error:
        list(judge().ask(said("x")))
    assert says in str(error.value) and len(server.seen) == 1


def test_pauses_double_and_the_server_may_ask_for_more(server: Server, judge: Callable) -> None:
    server.script = ["500", "500", "wait1"]
    list(judge(retries=3, pause=0.1).ask(said("x")))
    pauses = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert 0.1 <= pauses[0] < 0.2 <= pauses[1] < 0.9 and 1.0 <= pauses[2] < 1.9


def test_no_server(judge: Callable) -> None:
    with pytest.raises(GraftError, match="refused"):
        list(judge(url="http://127.0.0.1:9/v1", retries=0).ask(said("x")))
    for url in ("127.0.0.1:8000", "ftp://x/v1", "http://", "http://x:port"):
        with pytest.raises(GraftError, match="no http address"):
            judge(url=url)


def test_an_empty_message_is_an_empty_reply(server: Server, judge: Callable) -> None:
    server.script = ['text:{"choices": [{"message": {"content": null}}]}']
    [(_, reply)] = judge().ask(said("x"))
    assert (reply.text, reply.prompt_tokens) == ("", None)


def test_requests_run_side_by_side(server: Server, judge: Callable) -> None:
    server.script = ["slow0.2"] * 8
    texts = [f"question {number}" for number in range(8)]
    replies = dict(judge(parallel=4).ask(said(*texts)))
    assert [replies[place].text for place in range(8)] == [f"echo: {text}" for text in texts]
    assert server.most_at_once == 4


def test_a_rerun_asks_nothing_again(server: Server, judge: Callable, tmp_path: Path) -> None:
    first = RememberingJudge(judge(), tmp_path).ask(said("a", "b"))
    again = RememberingJudge(judge(), tmp_path).ask(said("b", "c", "a"))
    assert [reply.text for reply in again] == ["echo: b", "echo: c", "echo: a"] and len(server.seen) == 3
    assert [reply.remembered for reply in (*first, *again)] == [False, False, True, False, True]
    for changes in ({"model": "other"}, {"temperature": 0.5}, {"max_tokens": 5}):
        RememberingJudge(judge(**changes), tmp_path).ask(said("a"))
    assert len(server.seen) == 6, "another judge is asked anew"


def test_a_spoilt_memory_is_asked_again(server: Server, judge: Callable, tmp_path: Path) -> None:
    remembering = RememberingJudge(judge(), tmp_path)
    remembering.ask(said("a"))
    for content in (b"", b"{}", b"[]", '{"text": "好'.encode()[:-1]):
        next(tmp_path.glob("*.json")).write_bytes(content)
        assert remembering.ask(said("a"))[0].text == "echo: a"
    assert len(server.seen) == 5


def test_a_failure_keeps_what_was_paid_for(server: Server, judge: Callable, tmp_path: Path) -> None:
    """The third of five is refused: the others that were answered need not be asked again."""
    server.script = ["ok", "ok", "401"]
    with pytest.raises(GraftError, match="401"):
        RememberingJudge(judge(), tmp_path).ask(said(*"abcde"))
    answered = len(list(tmp_path.glob("*.json")))
    assert answered == len(server.seen) - 1 >= 2
    replies = RememberingJudge(judge(), tmp_path).ask(said(*"abcde"))
    assert [reply.text for reply in replies] == [f"echo: {text}" for text in "abcde"]
    assert sum(not reply.remembered for reply in replies) == 5 - answered


def test_the_key_is_nowhere_written(
    server: Server, judge: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-4711")
    RememberingJudge(judge(), tmp_path).ask(said("a"))
    assert "secret-4711" in server.seen[0][1]["Authorization"]
    assert all("secret-4711" not in file.read_text() for file in tmp_path.iterdir())
    server.script = ["401"]
    with pytest.raises(GraftError) as error:
        RememberingJudge(judge(), tmp_path).ask(said("b"))
    assert "secret-4711" not in str(error.value)
