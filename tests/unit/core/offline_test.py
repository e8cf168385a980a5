"""offline() refuses the network at every door of Python's sockets, and puts all back."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import huggingface_hub.constants
import pytest

from graftlm.core.errors import GraftError
from graftlm.core.offline import HUB_SWITCHES, offline


@pytest.fixture
def listener() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


def test_a_tcp_connection_is_refused_with_a_fix(listener):
    socket.create_connection(listener).close()  # it could be made
    with offline():
        with pytest.raises(GraftError, match=r"offline: true(?s:.*)fix: use local paths"):
            socket.create_connection(listener)
        with socket.socket() as raw, pytest.raises(GraftError):
            raw.connect(listener)
        with socket.socket() as raw, pytest.raises(GraftError):
            raw.connect_ex(listener)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw, pytest.raises(GraftError):
            raw.connect(listener)
    socket.create_connection(listener).close()


def test_no_name_is_looked_up():
    with offline():
        for host in ("example.org", b"example.org"):
            with pytest.raises(GraftError, match=r"example\.org"):
                socket.getaddrinfo(host, 443)
        with pytest.raises(GraftError, match=r"example\.org"):
            socket.create_connection(("example.org", 443))
        assert socket.getaddrinfo("127.0.0.1", 1)[0][4] == ("127.0.0.1", 1)


def test_unix_sockets_and_pairs_work(tmp_path):
    with offline(), socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
        one, other = socket.socketpair()
        one.send(b"x")
        assert other.recv(1) == b"x"
        one.close()
        other.close()


def test_everything_is_put_back_even_after_an_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    before = dict(socket.socket.__dict__), socket.getaddrinfo, dict(os.environ)
    constant = huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(KeyError), offline():
        assert all(os.environ[name] == "1" for name in HUB_SWITCHES)
        assert huggingface_hub.constants.HF_HUB_OFFLINE is True
        with offline():
            pass
        assert huggingface_hub.constants.HF_HUB_OFFLINE is True, "an inner block does not open the outer one"
        raise KeyError
    assert (dict(socket.socket.__dict__), socket.getaddrinfo, dict(os.environ)) == before
    assert huggingface_hub.constants.HF_HUB_OFFLINE is constant


def test_inactive_changes_nothing(listener):
    with offline(False):
        socket.create_connection(listener).close()


def test_the_hub_library_fails_at_once():
    from transformers import AutoConfig

    with offline(), pytest.raises(Exception, match=r"(?i)offline|cached|connect"):
        AutoConfig.from_pretrained("no-such-owner/no-such-model")
