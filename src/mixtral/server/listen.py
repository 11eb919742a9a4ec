"""The door: API keys, sockets bound to the addresses of a host, the certificate to show there.

It is opened before the model is loaded, and nothing here imports torch: a port in use, a file of
keys that is wrong or a certificate that is missing are told at once.
"""

import errno
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtral.errors import ConfigError
from mixtral.server.keys import KeyRing
from mixtral.server.settings import ServerSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """Everything that a server needs before anybody may come in."""

    keys: KeyRing
    """Who may."""
    sockets: list[socket.socket]
    """Bound, but nobody listens yet."""
    context: ssl.SSLContext | None
    """Certificate and key; None without TLS."""
    url: str
    """Where it is."""


def open_door(settings: ServerSettings) -> Door:
    """Read the keys and the certificate, and bind the addresses.

    Raises:
        ConfigError: One of them cannot be had.
    """
    file = None if settings.api_keys_file is None else Path(settings.api_keys_file)
    keys = KeyRing(file, settings.api_key)
    context = load_certificate(settings)
    sockets = bind(settings, is_open=keys.is_open)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "http" if context is None else "https"
    url = f"{scheme}://{host}:{sockets[0].getsockname()[1]}"
    return Door(keys=keys, sockets=sockets, context=context, url=url)


def bind(settings: ServerSettings, *, is_open: bool) -> list[socket.socket]:
    """Return sockets bound to all addresses of the host.

    Args:
        settings: Host, port, and whether everybody may ask without a key.
        is_open: Whether there are no keys.

    Raises:
        ConfigError: The host has no address, the port cannot be had, or machines other than this
            one could ask without a key.
    """
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host is {host!r}, which is no address of this machine.") from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    if is_open and not settings.allow_no_key:
        _require_loopback(host, [str(address[0]) for _, address in addresses])
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, address in addresses:
        # Port 0 gives the first address a free port, and the others the same one.
        taken = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_bind_one(family, (address[0], taken, *address[2:])))
        except OSError as error:
            problem = error
            if error.errno != errno.EADDRNOTAVAIL:
                break
    if problem is not None and (not sockets or problem.errno != errno.EADDRNOTAVAIL):
        for bound in sockets:
            bound.close()
        raise ConfigError(_why_not_bound(problem, host, port)) from problem
    return sockets


def load_certificate(settings: ServerSettings) -> ssl.SSLContext | None:
    """Return the TLS context of the settings, None where TLS is off.

    Raises:
        ConfigError: A file is missing, cannot be read, or does not fit the other.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    for name, path in (("tls_cert", settings.tls_cert), ("tls_key", settings.tls_key)):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise ConfigError(f"{name} is {path}: {error.strerror}.") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be used: "
            f"{getattr(error, 'reason', None) or error}. They must be PEM files that belong "
            "together, the key without a password."
        ) from error
    return context


def _require_loopback(host: str, addresses: list[str]) -> None:
    # An IPv6 address may end in the name of an interface, %eth0.
    if not all(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in addresses):
        raise ConfigError(
            f"host is {host}, where other machines could ask without an API key; give --api-key or "
            "--api-keys-file, or say --allow-no-key."
        )


def _bind_one(family: int, address: tuple[Any, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # A port whose last connections are still winding down may be taken again.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has its own socket, where it was asked for.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port is {port}, which is in use on {host}; give another --port, or 0 for any."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port is {port}, which needs more rights than this user has; take one above 1023."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host is {host!r}, which is no address of this machine."
    return f"cannot listen on {host} port {port}: {error.strerror}."
