"""HTTP against real TLS servers on loopback: what is sent, what is trusted, what it costs."""

import json
import socket
import threading
from pathlib import Path

import certifi
import pytest

from daemon.sources.kubernetes.client import METADATA, Client, Connection, Limits
from daemon.sources.kubernetes.errors import (
    RefusedError,
)
from daemon.sources.kubernetes.kubeconfig import Access, Material
from daemon.sources.kubernetes.login import Login
from tests.unit.kubernetes.serving import (
    AGENT,
    CA,
    HOST,
    LEAF,
    LIMITS,
    OTHER_CA,
    Exchange,
    Server,
    connect,
    failure,
    pem,
    refusal_of,
    serve,
    speak_and_idle,
    watch,
)

QUERY = {"fieldSelector": "spec.nodeName!=a,x=b c", "limit": "5"}


# --- what is sent ----------------------------------------------------------------------------------------


def test_what_a_get_sends(server: Server, connection: Connection) -> None:
    server.answer = lambda exchange: exchange.reply(body={"a": 1})
    assert json.loads(connection.get("list pods", "/api/v1/pods", QUERY, METADATA)) == {"a": 1}
    request = server.seen[0]
    assert request.requestline == (
        "GET /api/v1/pods?fieldSelector=spec.nodeName%21%3Da%2Cx%3Db+c&limit=5 HTTP/1.1"
    )
    assert {name.lower(): value for name, value in request.headers.items()} == {
        "host": f"{HOST}:{server.server_port}",
        "user-agent": AGENT,
        "authorization": "Bearer secret",
        "accept": METADATA,
        "accept-encoding": "gzip",
    }


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_a_body_is_sent_with(server: Server, connection: Connection, method: str) -> None:
    server.answer = lambda exchange: exchange.reply(201, exchange.body)
    kind = "application/merge-patch+json"
    assert connection.send("create events", method, "/events", b'{"x":1}', kind) == b'{"x":1}'
    assert (server.seen[0].command, server.header("Content-Type")) == (method, kind)


def test_requests_share_a_connection(server: Server, connection: Connection) -> None:
    for _ in range(3):
        connection.get("list pods", "/")
    assert len({exchange.client_address for exchange in server.seen}) == 1


def test_the_environment_changes_nothing(
    server: Server, connection: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login a password b\n")
    dead = "http://127.0.0.1:9"
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, dead)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    connection.get("list pods", "/")
    assert server.header("Authorization") == "Bearer secret"


def test_no_authorization_from_netrc(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with connect(Access(server.url, authority=pem(CA)), LIMITS) as connection:
        connection.get("list pods", "/")
    assert server.header("Authorization") == ""


def test_a_new_token_needs_no_new_connection(server: Server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    access = Access(server.url, authority=pem(CA), token=Material(path=token))
    with connect(access, LIMITS) as connection:
        for text in ("one", "two"):
            token.write_text(text)
            connection.get("list pods", "/")
            assert server.header("Authorization") == f"Bearer {text}"
    assert len({exchange.client_address for exchange in server.seen}) == 1


def test_a_redirect_is_not_followed(server: Server, connection: Connection) -> None:
    with serve(LEAF) as elsewhere:
        # Nor is its body read to the end, of which there is none.
        def answer(exchange: Exchange) -> None:
            exchange.send_response(302)
            exchange.send_header("Location", f"{elsewhere.url}/")
            exchange.send_header("Transfer-Encoding", "chunked")
            exchange.end_headers()
            while True:
                exchange.chunk(b"x" * 10_000)

        server.answer = answer
        error = failure(connection)
        assert isinstance(error, RefusedError)
        assert error.status == 302
        assert elsewhere.seen == []


# --- what is trusted -------------------------------------------------------------------------------------


def test_another_ca_is_not_trusted(server: Server) -> None:
    reason = refusal_of(Access(server.url, authority=pem(OTHER_CA)))
    assert reason == f"{server.url}: its certificate: unable to get local issuer certificate"
    assert "local issuer" in refusal_of(Access(server.url))
    assert server.seen == []


def test_public_cas_are_not_trusted_beside_the_given_one(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The server's CA made one of the public ones, as far as requests and OpenSSL know.
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes() + CA.cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(bundle))
    monkeypatch.setattr(certifi, "where", lambda: str(bundle))
    assert "local issuer" in refusal_of(Access(server.url, authority=pem(OTHER_CA)))
    # Positive control: where no CA is given, the system's count.
    with connect(Access(server.url), LIMITS) as connection:
        assert connection.get("list pods", "/") == b"{}"


def test_an_intermediate_ca_may_be_all_that_is_trusted() -> None:
    middle = CA.create_child_ca()
    with (
        serve(middle.issue_cert(HOST)) as server,
        connect(Access(server.url, authority=pem(middle)), LIMITS) as connection,
    ):
        assert connection.get("list pods", "/") == b"{}"


def test_the_name_in_the_certificate() -> None:
    with serve(CA.issue_cert("kubernetes.default")) as server:
        assert "not valid for '127.0.0.1'" in refusal_of(Access(server.url, authority=pem(CA)))
        assert "not valid for 'other'" in refusal_of(
            Access(server.url, server_name="other", authority=pem(CA))
        )
        access = Access(server.url, server_name="kubernetes.default", authority=pem(CA))
        with connect(access, LIMITS) as connection:
            assert connection.get("list pods", "/") == b"{}"


def test_a_name_given_later_leaves_nothing_behind() -> None:
    with serve(CA.issue_cert("one")) as server:
        access = Access(server.url, server_name="one", authority=pem(CA))
        login = Login(lambda: access)
        connection = Client(login, AGENT, LIMITS).connect()
        connection.get("list pods", "/")
        for name in ("", "two"):
            access = Access(server.url, server_name=name, authority=pem(CA))
            assert "not valid for" in failure(connection).message
        connection.close()


def test_a_client_certificate() -> None:
    leaf = CA.issue_cert("client@example.com")
    key, chain = Material(leaf.private_key_pem.bytes()), Material(leaf.cert_chain_pems[0].bytes())
    with serve(LEAF, CA) as server:
        access = Access(server.url, authority=pem(CA), certificate=chain, key=key)
        with connect(access, LIMITS) as connection:
            assert connection.get("list pods", "/") == b"{}"
        # By an alert, or an end: that depends on who is faster.
        refusal_of(Access(server.url, authority=pem(CA)))
        assert len(server.seen) == 1


def test_a_new_ca_counts_from_the_next_request_on(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    path.write_bytes(CA.cert_pem.bytes())
    with connect(Access(server.url, authority=Material(path=path)), LIMITS) as connection:
        connection.get("list pods", "/")
        path.write_bytes(OTHER_CA.cert_pem.bytes())
        assert "local issuer" in failure(connection).message
        path.write_bytes(CA.cert_pem.bytes())
        connection.get("list pods", "/")


def test_no_tls_at_all() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]

        def speak() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                accepted.recv(9999)

        thread = threading.Thread(target=speak)
        thread.start()
        assert "wrong version" in refusal_of(Access(f"https://{HOST}:{port}", authority=pem(CA))).lower()
        thread.join()


# --- what it costs ---------------------------------------------------------------------------------------


def test_costs(server: Server, client: Client, connection: Connection) -> None:
    assert client.cost.summary() == {
        "requests": {},
        "requestsPerSecond": 0.0,
        "errors": 0,
        "bytes": 0,
        "watches": 0,
    }
    server.answer = lambda exchange: exchange.reply(body=b"12345")
    connection.get("list pods", "/")
    connection.send("create events", "POST", "/", b"{}", "application/json")
    server.answer = speak_and_idle
    other = client.connect()
    with watch(other) as pieces:
        next(pieces)
        assert client.cost.summary()["watches"] == 1
    other.close()
    server.answer = lambda exchange: exchange.reply(503, b"1234567")
    failure(connection)
    with pytest.raises(RefusedError), watch(connection):
        pass
    found = client.cost.summary()
    assert found["requests"] == {"GET": 2, "POST": 1, "WATCH": 2}
    assert found["requestsPerSecond"] == pytest.approx(5 / 60, abs=0.001)
    assert (found["errors"], found["watches"]) == (2, 0)
    # Of a stream as it comes, framing included by nobody.
    assert found["bytes"] == client.cost.bytes_received == 5 + 5 + 3 + 7 + 7


def test_connections_count_together(server: Server, client: Client) -> None:
    def ask() -> None:
        connection = client.connect()
        for _ in range(20):
            connection.get("list pods", "/")
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.cost.summary()["requests"] == {"GET": 80}
    assert client.cost.bytes_received == 160


def test_the_usual_limits() -> None:
    usual = Limits()
    assert (usual.connect, usual.read, usual.total) == (5.0, 30.0, 120.0)
