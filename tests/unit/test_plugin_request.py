"""The plugin reads JSON and requests: in process, with generated input and the table of bad input."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import wire
from cni_plugin.dispatch import run
from cni_plugin.errors import CniError
from cni_plugin.jsontext import JsonError, read_object
from cni_plugin.request import read_command, read_env, read_request
from tests.cni.bad_input import ENV, ROWS, BadInput, config

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(max_size=10), JSON_VALUES, max_size=8)
SPACES = st.text(alphabet=" \t\r\n", max_size=3)


@given(OBJECTS, st.sampled_from([None, 0, 1, "\t"]), st.booleans(), SPACES, SPACES)
def test_reads_objects_as_json_does(
    value: dict[str, Any], indent: int | str | None, is_ascii: bool, before: str, after: str
) -> None:
    text = before + json.dumps(value, indent=indent, ensure_ascii=is_ascii) + after
    values, places = read_object(text)
    assert values == json.loads(text)
    assert {key: json.loads(text[start:end]) for key, (start, end) in places.items()} == value


@given(st.text(alphabet='{}[]":,\\ue1-.tfn0\x00 ', max_size=30))
def test_accepts_only_what_json_accepts(text: str) -> None:
    try:
        wanted = json.loads(text)
    except ValueError:
        wanted = None
    if isinstance(wanted, dict) and "NaN" not in text and "Infinity" not in text:
        assert read_object(text)[0] == wanted
    else:
        with pytest.raises(JsonError):
            read_object(text)


def code_of(function: Callable[..., object], *args: object) -> int:
    """Return the code of the CNI error that a call raises, 0 if it returns."""
    try:
        function(*args)
    except CniError as exc:
        return exc.code
    return 0


@given(st.binary(max_size=60))
def test_any_stdin_gives_a_request_or_a_cni_error(stdin: bytes) -> None:
    for command in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        assert code_of(read_request, command, dict(ENV), stdin) in (0, 1, 6, 7)


@given(OBJECTS, st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"]))
def test_any_values_of_known_keys_give_a_request_or_a_cni_error(values: dict[str, Any], command: str) -> None:
    keys = [
        "name",
        "cniVersion",
        "guard",
        "socketPath",
        "timeoutSeconds",
        "netAttachDef",
        "onUnready",
        "prevResult",
    ]
    known = dict(zip(keys, values.values(), strict=False))
    text = json.dumps({"name": "a", **known}).encode()
    assert code_of(read_request, command, dict(ENV), text) in (0, 1, 6, 7)


@given(
    st.dictionaries(st.sampled_from(sorted(ENV)), st.binary(max_size=30).filter(lambda raw: b"\0" not in raw))
)
def test_any_environment_gives_variables_or_a_cni_error(changes: dict[str, bytes]) -> None:
    environ = {
        **{k.encode(): v.encode() for k, v in ENV.items()},
        **{k.encode(): v for k, v in changes.items()},
    }
    assert code_of(read_command, environ) in (0, 4)
    for command in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        assert code_of(read_env, command, environ) in (0, 4)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_table_of_bad_input_holds_unbuilt(row: BadInput) -> None:
    """The rows run built in the cni tier; here they are quick, and measured by coverage."""
    merged = {**ENV, **row.env}
    environ = {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in merged.items()
        if value is not None
    }
    outcome = run(environ, lambda limit: row.stdin[:limit])
    error = json.loads(outcome.stdout)
    assert (outcome.exit_code, error["code"]) == (1, row.code)
    assert outcome.stderr == b""


def test_the_table_is_long_and_its_names_differ() -> None:
    assert len(ROWS) >= 60
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_a_bug_is_reported_as_999() -> None:
    def broken(_limit: int) -> bytes:
        raise ZeroDivisionError("oops")

    environ = {name.encode(): value.encode() for name, value in ENV.items()}
    outcome = run(environ, broken)
    error = json.loads(outcome.stdout)
    assert (outcome.exit_code, error["code"]) == (1, 999)
    assert error["msg"] == "ZeroDivisionError: oops"


def test_what_is_left_for_the_environment_is_enough() -> None:
    """The largest configuration and the longest variables together fit a request."""
    longest = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_ARGS")
    environ = {name.encode(): b"/" + b"a" * 8191 for name in longest} | {
        b"CNI_PATH": b"/",
        b"CNI_IFNAME": b"b" * 15,
    }
    environ[b"CNI_CONTAINERID"] = b"a" * 8192
    message = {
        "v": 1,
        "op": "check",
        "env": read_env("ADD", environ),
        "config": bytes(wire.MAX_CONFIG),
        "timeLeftMs": 1 << 40,
    }
    wire.frame(wire.pack(message))


def test_settings_that_the_plugin_obeys() -> None:
    request = read_request("ADD", {}, config(socketPath="/a", timeoutSeconds=2, guard=False))
    assert (request.socket_path, request.timeout, request.guard) == ("/a", 2.0, False)
    bare = read_request("DEL", {}, b'{"name":"a","socketPath":7,"timeoutSeconds":"x","cniVersion":"0.3.1"}')
    assert (bare.socket_path, bare.timeout, bare.version) == (
        "/run/multi-networkpolicy/daemon.sock",
        30.0,
        "0.3.1",
    )
