"""What the policies of conf/samples let through and what not, as their comments say it.

A line: `web,guest>api@front:tcp/8080,icmp yes`. front and store are the networks' IPv4, store6 is the other
family. host100, host200 and host201 are no pods: hosts on both networks with addresses that end so.
`stranger` is a pod of ops on front that the samples don't have. Each line passes while no policy is there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE = re.compile(
    r"(?P<clients>[\w,]+)>(?P<servers>[\w,]+)@(?P<networks>[\w,]+):(?P<ports>[\w,/]+) (?P<want>yes|no)"
)


@dataclass(frozen=True)
class Probe:
    """One try. network: front or store; port: 0 for ICMP."""

    client: str
    server: str
    network: str
    family: int
    protocol: str
    port: int
    passes: bool


def probes(lines: str) -> Iterator[Probe]:
    """Every probe of a table's entry."""
    for line in re.split(r"[;\n]\s*", lines.strip()):
        match = _LINE.fullmatch(line)
        assert match, f"not a line of probes: {line!r}"
        for client in match["clients"].split(","):
            for server in match["servers"].split(","):
                for network in match["networks"].split(","):
                    for item in match["ports"].split(","):
                        protocol, _, port = item.partition("/")
                        name, family = network.removesuffix("6"), 6 if network.endswith("6") else 4
                        passes = match["want"] == "yes"
                        yield Probe(client, server, name, family, protocol, int(port or 0), passes)


# Files that are in force beside the sample.
BESIDE = {"policies/allow-all": ("policies/deny-ingress",)}

TABLE = {
    "policy-web": """
        guest,host100>web@front:tcp/80,tcp/8000,tcp/8099 yes
        host200>web@front:tcp/80 no; guest>web@front:tcp/8100,icmp no; web>guest@front:tcp/80 yes
    """,
    "policy-api": """
        web>api@front:tcp/8080 yes; guest,monitor,host100>api@front:tcp/8080 no
        web>api@front:tcp/9100,icmp no; db>api@store:tcp/8080 yes
    """,
    "policy-db": """
        api>db@store,store6:tcp/3306 yes; monitor,host100>db@store,store6:tcp/3306 no
        api>db@store:tcp/9104 no; db>api@store,store6:tcp/8080 no
    """,
    "policy-monitoring": """
        monitor>api@front,store:tcp/9100 yes; monitor>db@store:tcp/9104 yes
        monitor>db@store:tcp/9100,tcp/3306 no; web,stranger>api@front:tcp/9100 no
    """,
    "policies/deny-ingress": """
        guest,monitor,host100>web,api@front:tcp/8080,icmp no; db>api@store:tcp/8080 yes
        api>monitor,host100@front:tcp/80 yes
    """,
    "policies/deny-egress": """
        db>api,host100@store,store6:tcp/8080,icmp no; api,monitor>db@store,store6:tcp/3306,icmp yes
    """,
    "policies/deny-both": """
        web,monitor>guest@front:tcp/80,icmp no; guest>web,monitor@front:tcp/80,icmp no
        web>api@front:tcp/80 yes
    """,
    "policies/allow-all": """
        guest,monitor,host100>web@front:tcp/80,udp/53,icmp yes; web>monitor,host100@front:tcp/80,icmp yes
        guest,monitor,host100>api@front:tcp/80,udp/53,icmp no
    """,
    "policies/types-absent": """
        web>api@front:tcp/8080 yes; guest,monitor,host100>api@front:tcp/8080 no; api>monitor@front:tcp/80 yes
        guest>web@front:tcp/80 yes; guest>monitor,host100@front:tcp/80 no; web,monitor>guest@front:tcp/80 no
    """,
    "policies/peer-pods": """
        web,guest>api@front:tcp/8080,udp/53,icmp yes; monitor,stranger,host100>api@front:tcp/8080,icmp no
    """,
    "policies/peer-namespaces": """
        monitor,stranger>api@front:tcp/8080 yes; web,guest,host100>api@front:tcp/8080 no
    """,
    "policies/peer-and": """
        monitor>api@front:tcp/8080 yes; stranger,web,host100>api@front:tcp/8080 no
    """,
    "policies/peer-or": """
        monitor,stranger,web>api@front:tcp/8080 yes; guest,host100>api@front:tcp/8080 no
    """,
    "policies/peer-expressions": """
        web>api@front:tcp/8001,tcp/8003 yes; web>api@front:tcp/8002,tcp/8004 no
        guest>api@front:tcp/8002,tcp/8004 yes; guest>api@front:tcp/8001,tcp/8003 no
        monitor>api@front:tcp/8001,tcp/8002,tcp/8003,tcp/8004 no
    """,
    "policies/block": """
        host200,host201>web@front:tcp/80,icmp yes; host100,guest,monitor>web@front:tcp/80,icmp no
    """,
    "policies/block-except": """
        host100,host200,guest>web@front:tcp/80 yes; host201>web@front:tcp/80 no
    """,
    "policies/block-ipv6": """
        api,monitor,host100>db@store6:tcp/3306 yes; host200>db@store6:tcp/3306 no
        api,monitor,host100>db@store:tcp/3306 no
    """,
    "policies/block-both-families": """
        db>api,host100@store,store6:tcp/8080,icmp yes; db>host200,host201@store,store6:tcp/8080,icmp no
        host200>db@store,store6:tcp/3306 yes
    """,
    "policies/port-number": """
        guest,monitor,host100>api@front:tcp/8080 yes; guest,host100>api@front:tcp/9100,udp/8080,icmp no
    """,
    "policies/port-name": """
        guest,host100>api@front:tcp/9100 yes; api,monitor>db@store:tcp/9104 yes
        guest>api@front:tcp/9104,udp/9100 no; monitor>db@store:tcp/9100 no; guest>web@front:tcp/9100,tcp/80 no
    """,
    "policies/port-name-egress": """
        monitor>api@store,store6:tcp/9100 yes; monitor>db@store,store6:tcp/9104 yes
        monitor>api@store:tcp/9104 no; monitor>db@store:tcp/9100 no; monitor>host100@store:tcp/9100 no
        monitor>api@front:tcp/8080 yes
    """,
    "policies/port-range": """
        guest>web@front:tcp/8000,tcp/8050,tcp/8099 yes; guest>web@front:tcp/7999,tcp/8100,udp/8000 no
    """,
    "policies/port-protocol": """
        guest>web@front:udp/53,udp/8000 yes; guest>web@front:tcp/53,tcp/80,icmp no
    """,
    "policies/port-udp": """
        guest>web@front:tcp/443,udp/443 yes; guest>web@front:tcp/80,udp/53 no
    """,
    # That SCTP passes is read from the rules: not every kernel has its sockets.
    "policies/port-sctp": """
        web>api@front:tcp/38412,udp/38412,tcp/8080,icmp no; db>api@store:tcp/38412 yes
    """,
    "policies/adding-up": """
        web>api@front:tcp/8080,tcp/9100 yes; guest,monitor>api@front:tcp/9100 yes
        guest,monitor>api@front:tcp/8080 no
    """,
    "policies/networks-several": """
        monitor>api@front,store,store6:tcp/8080 yes; web,guest>api@front:tcp/8080 no
        db,host100>api@store,store6:tcp/8080 no
    """,
    "policies/networks-of-another-namespace": """
        web,api>monitor,stranger@front:tcp/80 yes; guest,host100>monitor,stranger@front:tcp/80 no
        stranger>monitor@front:tcp/80 no; db,host100>monitor@store,store6:tcp/80 yes
    """,
    "policies/egress-to-ports": """
        web>api@front:tcp/8080 yes; web>api@front:tcp/9100,icmp no; web>guest,host100@front:tcp/8080 no
        guest,host100>web@front:tcp/80 yes
    """,
    "policies/api-versions": """
        monitor,host100>api,db@store,store6:tcp/9100,tcp/9199 yes
        monitor,host100>api,db@store,store6:tcp/9099,tcp/9200 no
    """,
}
