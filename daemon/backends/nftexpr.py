"""nf_tables' expressions as bytes: what a rule is made of. Pure.

In: names, addresses, ports. Out: attributes for NFTA_RULE_EXPRESSIONS. Each expression is a small
instruction for the kernel's register machine; `nft --debug=netlink` shows the same ones for a rule written
by hand.
"""

import struct
from functools import lru_cache

from daemon.backends.nfnetlink import nest, string, u32
from daemon.netlink import attr

TABLE_FAMILY = 1
"""NFPROTO_INET."""

NFPROTO = {4: 2, 6: 10}

ICMPV6 = 58
IFNAME_BYTES = 16
TCP = 6

# Registers: 1 has 16 bytes; 8 to 23 are the same memory by 4 bytes, 8 being the start of 1.
_REG_VERDICT = 0
_REG_1 = 1

_NETWORK_HEADER = 1
_TRANSPORT_HEADER = 2

_META_IIF = 4
_META_OIF = 5
_META_IIFNAME = 6
_META_OIFNAME = 7
_META_NFPROTO = 15
_META_L4PROTO = 16

_DISPATCH_KEY = {
    (True, True): _META_IIFNAME,
    (True, False): _META_IIF,
    (False, True): _META_OIFNAME,
    (False, False): _META_OIF,
}

_CMP_EQ, _CMP_NEQ, _CMP_LTE, _CMP_GTE = 0, 1, 3, 5

_CT_STATE = 0
_STATE_ESTABLISHED = 0x2
_STATE_RELATED = 0x4
_STATE_NEW = 0x8

_FIB_ADDRESS_TYPE = 3
_FIB_SOURCE = 1
_TYPE_LOCAL = 2

_FIN_SYN_RST_ACK = 0x17
_SYN = 0x02

_DROP = 0
_JUMP, _GOTO = -3, -4
_RETURN = -5

_COUNTER_OBJECT = 1

# (offset, length) in the network header, by family and by whether it is the source.
ADDRESS_AT = {(4, True): (12, 4), (4, False): (16, 4), (6, True): (8, 16), (6, False): (24, 16)}


@lru_cache(maxsize=256)  # small ones, and most rules have the same
def _expression(name: str, *parts: bytes) -> bytes:
    return nest(1, attr(1, string(name)), nest(2, *parts))


def _meta(key: int, register: int = _REG_1) -> bytes:
    return _expression("meta", attr(2, u32(key)), attr(1, u32(register)))


def _payload(base: int, offset: int, length: int, register: int = _REG_1) -> bytes:
    return _expression(
        "payload", attr(1, u32(register)), attr(2, u32(base)), attr(3, u32(offset)), attr(4, u32(length))
    )


def _compare(value: bytes, operation: int = _CMP_EQ) -> bytes:
    return _expression("cmp", attr(1, u32(_REG_1)), attr(2, u32(operation)), nest(3, attr(1, value)))


def _mask(mask: bytes) -> bytes:
    return _expression(
        "bitwise",
        attr(1, u32(_REG_1)),
        attr(2, u32(_REG_1)),
        attr(3, u32(len(mask))),
        nest(4, attr(1, mask)),
        nest(5, attr(1, bytes(len(mask)))),
    )


def _verdict(code: int) -> bytes:
    return _expression("immediate", attr(1, u32(_REG_VERDICT)), nest(2, nest(2, attr(1, u32(code)))))


def _state(bits: int) -> bytes:
    # ct state is in the machine's own byte order.
    word = struct.pack("=I", bits)
    return (
        _expression("ct", attr(2, u32(_CT_STATE)), attr(1, u32(_REG_1))) + _mask(word) + _compare(bytes(4), 1)
    )


DROP = _verdict(_DROP)
RETURN = _verdict(_RETURN)
COUNTER = _expression("counter")


def lookup(set_name: str, set_id: int | None = None) -> bytes:
    """What is in register 1 on is in the set; set_id: of an anonymous set in the same batch."""
    by_id = attr(4, u32(set_id)) if set_id is not None else b""
    # Not memoized: there are as many as there are sets.
    body = attr(2, u32(_REG_1)) + attr(1, string(set_name)) + by_id
    return nest(1, attr(1, string("lookup")), nest(2, body))


def named_counter(name: str) -> bytes:
    """Count on an object that outlives the rule."""
    return _expression("objref", attr(1, u32(_COUNTER_OBJECT)), attr(2, string(name)))


def dispatch(incoming: bool, interface: int | str, chain: str) -> bytes:
    """`iif 7 jump chain`, or by name, `iifname "net1" jump chain`."""
    by_name = isinstance(interface, str)
    key = (
        string(interface).ljust(IFNAME_BYTES, b"\0")
        if isinstance(interface, str)
        else struct.pack("=I", interface)
    )
    return _meta(_DISPATCH_KEY[incoming, by_name]) + _compare(key) + _jump(chain)


def goto(chain: str) -> bytes:
    """What returns from that chain returns from this one."""
    return _jump(chain, _GOTO)


def _jump(chain: str, how: int = _JUMP) -> bytes:
    verdict = nest(2, attr(1, u32(how)), attr(2, string(chain)))
    return _expression("immediate", attr(1, u32(_REG_VERDICT)), nest(2, verdict))


def established() -> bytes:
    """`ct state established,related`."""
    return _state(_STATE_ESTABLISHED | _STATE_RELATED)


def own_source() -> bytes:
    """`fib saddr type local`: the sender says that it is us (C10)."""
    return _expression(
        "fib", attr(3, u32(_FIB_SOURCE)), attr(2, u32(_FIB_ADDRESS_TYPE)), attr(1, u32(_REG_1))
    ) + _compare(struct.pack("=I", _TYPE_LOCAL))


def midstream() -> bytes:
    """TCP that conntrack takes for new although it is no bare SYN (E2)."""
    flags = (
        _payload(_TRANSPORT_HEADER, 13, 1)
        + _mask(bytes([_FIN_SYN_RST_ACK]))
        + _compare(bytes([_SYN]), _CMP_NEQ)
    )
    return _state(_STATE_NEW) + protocol(TCP) + flags


def essentials(set_name: str, set_id: int) -> bytes:
    """`icmpv6 type @anonymous`."""
    return family(6) + protocol(ICMPV6) + _payload(_TRANSPORT_HEADER, 0, 1) + lookup(set_name, set_id)


def family(number: int) -> bytes:
    """IPv4 (4) or IPv6 (6) packets."""
    return _meta(_META_NFPROTO) + _compare(bytes([NFPROTO[number]]))


def protocol(number: int) -> bytes:
    """`meta l4proto`: IPv6 extension headers are skipped."""
    return _meta(_META_L4PROTO) + _compare(bytes([number]))


def address(number: int, source: bool, set_name: str) -> bytes:
    """`ip saddr @set` and the like."""
    return family(number) + _payload(_NETWORK_HEADER, *ADDRESS_AT[number, source]) + lookup(set_name)


def endpoint(number: int, set_name: str) -> bytes:
    """`ip daddr . meta l4proto . th dport @set`: always the receiver's side (D4)."""
    # As the kernel numbers them when it lists a rule: 2 is the same register as 12.
    after, port = (9, 10) if number == 4 else (2, 13)
    return (
        family(number)
        + _payload(_NETWORK_HEADER, *ADDRESS_AT[number, False])
        + _meta(_META_L4PROTO, after)
        + _payload(_TRANSPORT_HEADER, 2, 2, port)
        + lookup(set_name)
    )


def port_span(first: int, last: int) -> bytes:
    """Destination port, after `protocol`."""
    port = _payload(_TRANSPORT_HEADER, 2, 2)
    if first == last:
        return port + _compare(first.to_bytes(2, "big"))
    return port + _compare(first.to_bytes(2, "big"), _CMP_GTE) + _compare(last.to_bytes(2, "big"), _CMP_LTE)


def port_in(set_name: str) -> bytes:
    """`th dport @set`, after `protocol`."""
    return _payload(_TRANSPORT_HEADER, 2, 2) + lookup(set_name)
