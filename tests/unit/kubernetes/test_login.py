"""Credentials as they are at the moment, by real files."""

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from cryptography.hazmat.primitives import serialization

from daemon.errors import ConfigError
from daemon.sources.kubernetes.errors import CredentialsError
from daemon.sources.kubernetes.kubeconfig import Access, Material
from daemon.sources.kubernetes.login import MAX_FILE, Login, follow_kubeconfig, follow_pod

URL = "https://api.example:6443"
CA, OTHER_CA = trustme.CA(), trustme.CA()
PEM = CA.cert_pem.bytes()
LEAF, OTHER_LEAF = CA.issue_cert("client"), CA.issue_cert("other")
CERTIFICATE, KEY = LEAF.cert_chain_pems[0].bytes(), LEAF.private_key_pem.bytes()


def login(**fields: Any) -> Login:
    return Login(lambda: Access(URL, **fields))


def why(found: Login) -> str:
    with pytest.raises(CredentialsError) as caught:
        found.identity()
    return str(caught.value)


# --- tokens ----------------------------------------------------------------------------------------------


def test_a_token_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "token"
    found = login(token=Material(path=path))
    assert "No such file" in why(found)
    path.write_text("one\n")
    assert found.identity().authorization == "Bearer one"
    path.write_text("  two ")
    assert found.identity().authorization == "Bearer two"
    # kubelet truncates and writes, others replace: nobody's requests would be anonymous ones.
    path.write_text("\n")
    assert why(found).endswith("empty")


def test_no_token_is_no_header() -> None:
    assert login().identity().authorization == ""
    assert login(token=Material(b"t")).identity().authorization == "Bearer t"


@pytest.mark.parametrize(
    "token", [b"a\nX-Evil: 1", b"a\rb", b"a b", b"a\0", b"\xff\xfe", "t€".encode(), b"a\x7f"]
)
def test_a_token_never_ends_its_header(token: bytes) -> None:
    assert "visible ASCII" in why(login(token=Material(token)))


def test_files_have_a_most(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"x" * (MAX_FILE + 1))
    assert f"larger than {MAX_FILE} bytes" in why(login(token=Material(path=path)))
    assert "larger than" in why(login(token=Material(path=Path("/dev/zero"))))
    assert "null byte" in why(login(token=Material(path=Path("a\0b"))))
    assert "directory" in why(login(token=Material(path=tmp_path)))


# --- CA, certificate, key --------------------------------------------------------------------------------


def test_the_context_is_the_same_until_a_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    path.write_bytes(PEM)
    found = login(authority=Material(path=path), token=Material(b"t"))
    first = found.identity().context
    assert found.identity().context is first
    path.write_bytes(PEM)
    assert found.identity().context is first
    path.write_bytes(OTHER_CA.cert_pem.bytes())
    second = found.identity().context
    assert second is not first
    assert second.get_ca_certs() != first.get_ca_certs()
    path.write_bytes(b"")
    # Not the system's CAs, which no CA at all would mean.
    assert why(found).endswith("empty")


def test_a_comment_in_a_ca_is_none_of_our_business() -> None:
    content = "# Zertifikat für alle\n".encode() + PEM + OTHER_CA.cert_pem.bytes()
    assert len(login(authority=Material(content)).identity().context.get_ca_certs()) == 2


def test_the_context_verifies() -> None:
    context = login(authority=Material(PEM)).identity().context
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert len(context.get_ca_certs()) == 1


def test_a_client_certificate_as_content_and_as_files(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    # Without a line's end, as some tools write them.
    certificate.write_bytes(CERTIFICATE.rstrip())
    key.write_bytes(KEY.rstrip())
    found = login(certificate=Material(path=certificate), key=Material(path=key))
    first = found.identity().context
    assert login(certificate=Material(CERTIFICATE), key=Material(KEY)).identity().authorization == ""
    certificate.write_bytes(OTHER_LEAF.cert_chain_pems[0].bytes())
    # Half of a rotation.
    assert "can't be used" in why(found)
    key.write_bytes(OTHER_LEAF.private_key_pem.bytes())
    assert found.identity().context is not first


def encrypted(key: bytes) -> bytes:
    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


USELESS: list[tuple[dict[str, Material], str]] = [
    ({"authority": Material(b"x")}, ""),
    ({"authority": Material(b"\xff")}, ""),
    ({"authority": Material("é".encode())}, "no certificate in pem"),
    ({"authority": Material(b"\n")}, ""),
    ({"authority": Material(KEY)}, ""),
    ({"certificate": Material(b"x"), "key": Material(KEY)}, ""),
    ({"certificate": Material(CERTIFICATE), "key": Material(b"x")}, ""),
    ({"certificate": Material(CERTIFICATE), "key": Material(OTHER_LEAF.private_key_pem.bytes())}, "mismatch"),
    ({"certificate": Material(CERTIFICATE), "key": Material(encrypted(KEY))}, "the key is encrypted"),
]


@pytest.mark.parametrize(("fields", "word"), USELESS)
def test_what_openssl_does_not_take(fields: dict[str, Material], word: str) -> None:
    reason = why(login(**fields))
    assert "CA, certificate or key can't be used: " in reason
    assert word in reason.lower()


# --- the kubeconfig --------------------------------------------------------------------------------------


def write_config(path: Path, token: str) -> None:
    raw = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": URL}}],
        "users": [{"name": "x", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(raw))


def test_a_kubeconfig_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "kubeconfig"
    write_config(path, "one")
    load = follow_kubeconfig(path)
    assert load().token.content == b"one"
    write_config(path, "two")
    assert load().token.content == b"two"
    assert caplog.messages == []
    for damage in (lambda: path.write_text("a: ["), path.unlink, lambda: path.write_text("a: [")):
        damage()
        caplog.clear()
        assert [load().token.content for _ in range(3)] == [b"two"] * 3
        assert caplog.messages == ["kubeconfig-unusable"]
    # Also one that is the last good one again, after which the same damage is news.
    write_config(path, "two")
    assert load().token.content == b"two"
    path.write_text("a: [")
    caplog.clear()
    load()
    assert caplog.messages == ["kubeconfig-unusable"]
    write_config(path, "three")
    assert load().token.content == b"three"


def test_a_kubeconfig_must_be_good_at_first(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    with pytest.raises(ConfigError, match=r"--kubeconfig .*No such file"):
        follow_kubeconfig(path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="no YAML"):
        follow_kubeconfig(path)


def test_a_pod_is_asked_once() -> None:
    env = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    load = follow_pod(env)
    env.clear()
    assert load().server == "https://10.0.0.1:443"
    with pytest.raises(ConfigError):
        follow_pod({})
