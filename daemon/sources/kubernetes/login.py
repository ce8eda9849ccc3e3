"""Credentials as they are at this moment: files are read anew, exec plugins run when theirs have expired.

In: a way to get the Access. Out: an Authorization header and a TLS context, the same object until something
in it changes. Raises CredentialsError for what can't be used now; it may be right at the next try, since
rotations write several files one after the other.
"""

import math
import os
import selectors
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from daemon.errors import ConfigError
from daemon.log import get_logger
from daemon.sources.kubernetes.errors import CredentialsError
from daemon.sources.kubernetes.kubeconfig import Access, ExecPlugin, Material, in_cluster, read_kubeconfig
from daemon.sources.kubernetes.sockets import Socket

log = get_logger(__name__)

WHAT = "credentials"
MAX_FILE = 1 << 20
EXEC_SECONDS = 30.0
EXPIRY_MARGIN_SECONDS = 60.0
"""Credentials of an exec plugin are asked for anew so long before they expire; short-lived ones after four
fifths of their life."""
MAX_COMPLAINT = 500


class _Credential(msgspec.Struct, frozen=True, rename="camel"):
    """`status` of an ExecCredential."""

    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: str | None = None


class _ExecCredential(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    status: _Credential


class Identity(msgspec.Struct, frozen=True):
    """What one request needs. authorization: the header's value, or "" (a client certificate).

    given: what an exec plugin gave for it.
    """

    server: str
    server_name: str
    context: ssl.SSLContext
    authorization: str
    given: _Credential | None = None


class Login:
    """`load`: the Access as it is now. Thread-safe: all connections share it.

    clock: the time of day. exec_seconds: what an exec plugin may take.
    """

    def __init__(
        self,
        load: Callable[[], Access],
        clock: Callable[[], float] = time.time,
        exec_seconds: float = EXEC_SECONDS,
    ) -> None:
        self._load = load
        self._clock = clock
        self._exec_seconds = exec_seconds
        self._lock = threading.Lock()
        self._context: tuple[tuple[bytes, ...], ssl.SSLContext] | None = None
        self._exec: tuple[ExecPlugin, _Credential, float] | None = None

    def identity(self) -> Identity:
        """Where to connect and as whom, now. Raises CredentialsError."""
        with self._lock:
            access = self._load()
            authority, token = _read(access.authority), _read(access.token)
            certificate, key = _read(access.certificate), _read(access.key)
            given = None
            if access.plugin is not None:
                given = self._ask(access.plugin, access)
                token = (given.token or "").encode() or token
                if given.client_certificate_data and given.client_key_data:
                    certificate, key = given.client_certificate_data.encode(), given.client_key_data.encode()
            try:
                authorization = _authorization(token)
                context = self._make_context(authority, certificate, key)
            except CredentialsError:
                # It may be what a plugin gave, which no 401 would ever make it be asked for again.
                self._exec = None
                raise
        return Identity(access.server, access.server_name, context, authorization, given)

    def forget(self, refused: Identity) -> None:
        """The server said 401 to it: ask an exec plugin anew, whatever it said about the expiry.

        Unless it has given others since: a request may be answered long after another one's credentials were
        renewed.
        """
        with self._lock:
            if self._exec is not None and self._exec[1] == refused.given:
                self._exec = None

    def _make_context(self, authority: bytes, certificate: bytes, key: bytes) -> ssl.SSLContext:
        parts = (authority, certificate, key)
        if self._context is None or self._context[0] != parts:
            try:
                self._context = (parts, _make_context(*parts))
            except (OSError, ValueError) as error:
                raise CredentialsError(WHAT, f"CA, certificate or key can't be used: {error}") from error
        return self._context[1]

    def _ask(self, plugin: ExecPlugin, access: Access) -> _Credential:
        known = self._exec
        now = self._clock()
        if known is None or known[0] != plugin or now >= known[2]:
            credential = _parse(plugin, _run(plugin, access, self._exec_seconds))
            expiry = _expiry(credential)
            margin = min(EXPIRY_MARGIN_SECONDS, max(0.0, expiry - now) / 5)
            self._exec = known = (plugin, credential, expiry - margin)
        return known[1]


def _authorization(token: bytes) -> str:
    text = token.decode(errors="replace").strip()
    # Anything else would end the header, or has no encoding there.
    if not text.isascii() or not text.isprintable() or " " in text:
        raise CredentialsError(WHAT, "the token holds more than visible ASCII characters")
    return f"Bearer {text}" if text else ""


def follow_kubeconfig(path: Path) -> Callable[[], Access]:
    """The Access of a kubeconfig, read anew when the file changes.

    An edit that makes it unusable leaves the last good one in force, reported once. Raises ConfigError when
    it is not usable at the first reading.
    """
    content = _read_kubeconfig(path)
    access = read_kubeconfig(content, path)
    complaint: list[str] = []

    def load() -> Access:
        nonlocal content, access, complaint
        try:
            now = _read_kubeconfig(path)
            if now != content or complaint:
                access = read_kubeconfig(now, path)
                content, complaint = now, []
        except ConfigError as error:
            if error.problems != complaint:
                complaint = error.problems
                log.error("kubeconfig-unusable", extra={"problems": "; ".join(complaint)})
        return access

    return load


def follow_pod(env: Mapping[str, str]) -> Callable[[], Access]:
    """The Access of the pod that this daemon runs in. Raises ConfigError outside of one."""
    access = in_cluster(env)
    return lambda: access


def _read_kubeconfig(path: Path) -> bytes:
    try:
        return _read_file(path)
    except CredentialsError as error:
        raise ConfigError([f"--kubeconfig {error.message}"]) from None


def _read(material: Material) -> bytes:
    if material.path is None:
        return material.content
    content = _read_file(material.path)
    if not content.strip():
        # One that is being written. No CA would mean the system's, no token nobody.
        raise CredentialsError(WHAT, f"{material.path}: empty")
    return content


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise CredentialsError(WHAT, f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_FILE:
        raise CredentialsError(WHAT, f"{path}: larger than {MAX_FILE} bytes")
    return content


def _make_context(authority: bytes, certificate: bytes, key: bytes) -> ssl.SSLContext:
    # Python takes ASCII only, and comments between certificates may be in any language.
    trusted = authority.decode("ascii", errors="ignore")
    if authority and "-----BEGIN CERTIFICATE-----" not in trusted:
        # Nothing of it would be left, which means the system's CAs.
        raise ValueError("the CA holds no certificate in PEM")
    context = ssl.create_default_context(cadata=trusted or None)
    # Python 3.13 sets it; CAs of managed clusters lack the extensions that it asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if authority:
        # As for kubectl, and for Python from 3.13: what is given is trusted, be it an intermediate CA.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = Socket
    if certificate:
        # OpenSSL's loader takes paths only; a memory file never touches a disk.
        number = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
        try:
            os.write(number, certificate.rstrip() + b"\n" + key)
            context.load_cert_chain(f"/proc/self/fd/{number}", password=_refuse_password)
        finally:
            os.close(number)
    return context


def _refuse_password() -> str:
    # Without this, OpenSSL asks at the terminal.
    raise ValueError("the key is encrypted")


# --- exec plugins ----------------------------------------------------------------------------------------


def _run(plugin: ExecPlugin, access: Access, seconds: float) -> bytes:
    """What a plugin prints. Raises CredentialsError."""
    env = {**os.environ, **dict(plugin.environment), "KUBERNETES_EXEC_INFO": _exec_request(plugin, access)}
    pipe = subprocess.PIPE
    try:
        child = subprocess.Popen(
            [plugin.command, *plugin.arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        hint = f"; {plugin.hint}" if plugin.hint else ""
        reason = getattr(error, "strerror", None) or error
        raise CredentialsError(WHAT, f"{plugin.command}: {reason}{hint}") from error
    with child:
        try:
            output, complaint = _collect(child, seconds)
        except TimeoutError:
            raise CredentialsError(WHAT, f"{plugin.command} gave none in {seconds:g} s") from None
        except OverflowError:
            raise CredentialsError(WHAT, f"{plugin.command} printed more than {MAX_FILE} bytes") from None
        finally:
            if child.returncode is None:
                # Its own children too, which may hold the pipes open.
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode != 0:
        words = complaint.decode(errors="replace").strip()[-MAX_COMPLAINT:]
        raise CredentialsError(WHAT, f"{plugin.command} ended with {child.returncode}: {words}")
    return output


def _collect(child: "subprocess.Popen[bytes]", seconds: float) -> tuple[bytes, bytes]:
    """(output, the end of what it complains) once it has ended. Raises TimeoutError, OverflowError."""
    deadline = time.monotonic() + seconds
    output, complaint = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, output)  # type: ignore[arg-type] # a pipe
        selector.register(child.stderr, selectors.EVENT_READ, complaint)  # type: ignore[arg-type] # a pipe
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                piece = os.read(key.fd, 1 << 16)
                if not piece:
                    selector.unregister(key.fileobj)
                key.data.extend(piece)
            if len(output) > MAX_FILE:
                raise OverflowError
            del complaint[: -MAX_COMPLAINT * 4]
    try:
        child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return bytes(output), bytes(complaint)


def _parse(plugin: ExecPlugin, output: bytes) -> _Credential:
    try:
        found = msgspec.json.decode(output, type=_ExecCredential)
        if found.api_version != plugin.version:
            raise ValueError(f"apiVersion {found.api_version[:80]}, not {plugin.version}")
        given = found.status
        if not given.token and not (given.client_certificate_data and given.client_key_data):
            raise ValueError("neither a token nor a certificate with its key")
        _expiry(given)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CredentialsError(WHAT, f"{plugin.command} printed no ExecCredential: {error}") from error
    return given


def _exec_request(plugin: ExecPlugin, access: Access) -> str:
    spec: dict[str, object] = {"interactive": False}
    if plugin.cluster_wanted:
        cluster: dict[str, object] = {"server": access.server}
        if access.server_name:
            cluster["tls-server-name"] = access.server_name
        authority = _read(access.authority)
        if authority:
            cluster["certificate-authority-data"] = authority
        spec["cluster"] = cluster
    body = {"apiVersion": plugin.version, "kind": "ExecCredential", "spec": spec}
    return msgspec.json.encode(body).decode()


def _expiry(given: _Credential) -> float:
    """When it expires, in seconds of the wall clock; never where it names no time."""
    if not given.expiration_timestamp:
        return math.inf
    return datetime.fromisoformat(given.expiration_timestamp).timestamp()
