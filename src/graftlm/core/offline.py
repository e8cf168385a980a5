"""The network switch: with `offline: true` no library may open a connection to another machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from graftlm.core.errors import GraftError

HUB_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@contextmanager
def offline(active: bool = True) -> Iterator[None]:
    """Inside the block, connecting an internet socket or asking for a host's address raises GraftError.

    Hub libraries are told not to try. Unix sockets and sockets that only listen stay usable.
    """
    if not active:
        yield
        return
    variables = {name: os.environ.get(name) for name in HUB_SWITCHES}
    hub_constant = _hub_constant()
    own = {name: socket.socket.__dict__.get(name) for name in ("connect", "connect_ex")}
    look_up = socket.getaddrinfo

    os.environ.update(dict.fromkeys(HUB_SWITCHES, "1"))
    _set_hub_constant(True)
    for name in own:
        setattr(socket.socket, name, _local_only(getattr(socket.socket, name)))
    socket.getaddrinfo = _addresses_only(look_up)
    try:
        yield
    finally:
        socket.getaddrinfo = look_up
        for name, method in own.items():
            if method is None:  # inherited from C's socket
                delattr(socket.socket, name)
            else:
                setattr(socket.socket, name, method)
        _set_hub_constant(_truth(variables["HF_HUB_OFFLINE"]) if hub_constant is None else hub_constant)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _local_only(connect: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise _refusal(address)
        return connect(self, address)

    return refuse


def _addresses_only(look_up: Callable[..., Any]) -> Callable[..., Any]:
    """Finding a host by name asks a name server, outside Python's sockets: only addresses pass."""

    def refuse(host: Any, *args: Any, **kwargs: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        if text in (None, "", "localhost") or _is_address(text):
            return look_up(host, *args, **kwargs)
        raise _refusal(text)

    return refuse


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return True


def _refusal(address: Any) -> GraftError:
    return GraftError(
        f"something tried to connect to {address} although the recipe says `offline: true`",
        fix="use local paths for the base and the data, or set `offline: false`",
    )


def _hub_constant() -> bool | None:
    """huggingface_hub reads its variable once, when imported; after that its constant is the switch."""
    constants = sys.modules.get("huggingface_hub.constants")
    return None if constants is None else constants.HF_HUB_OFFLINE


def _set_hub_constant(value: bool) -> None:
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = value


def _truth(variable: str | None) -> bool:
    return (variable or "").upper() in ("1", "ON", "YES", "TRUE")
