"""A Program as `nft list table` would show it. Pure."""

from daemon.planner import ChainSpec, Gate, Program, RuleSpec, SetKind, SetSpec

_SETS = {
    "a4": SetSpec("blocks4-probe", SetKind.SPANS, 4, frozenset({(1, 2)}), "probe"),
    "e6": SetSpec("ports6-probe", SetKind.ENDPOINTS, 6, frozenset({(bytes(15) + b"\1", 6, 80)}), "probe"),
}
_PORTS = ((6, (80, 80)), (6, (90, 99)), (17, (53, 53)), (132, None))
_CHAIN = ChainSpec(
    True,
    (
        RuleSpec(4, "blocks4-probe", SetKind.SPANS, _PORTS, "probe"),
        RuleSpec(6, "ports6-probe", SetKind.ENDPOINTS, None, "probe"),
    ),
)

REHEARSAL = Program(
    {"probe0": Gate("probe0", 1, "probe", _CHAIN, _CHAIN)}, {spec.name: spec for spec in _SETS.values()}, True
)
"""A program with a bit of everything, for a backend's probe."""


def text(program: Program) -> str:
    """nft-like text."""
    return ""
