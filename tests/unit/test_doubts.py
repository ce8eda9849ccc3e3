"""What speaks against the netAttachDef of an attachment's configuration."""

import msgspec
import pytest

from daemon.attachments import Record
from daemon.doubts import config_doubts
from daemon.model import NetworkRequest, Pod
from tests.unit.test_records import make_record

pytestmark = pytest.mark.unit

FRONT, FORNT, BACK = "shop/front", "shop/fornt", "shop/back"


def pod(*requests: NetworkRequest) -> Pod:
    return Pod("shop", "web", "u", {}, requests=requests)


def says(network: str, *also: str, ifname: str = "net1", **changes: object) -> Record:
    networks = tuple(sorted({network, *also}))
    fields = {"configured": network, "networks": networks, "evidence": "config", "ifname": ifname, **changes}
    return msgspec.structs.replace(make_record(), **fields)


AS_NET1 = pod(NetworkRequest(FRONT, "net1"), NetworkRequest(BACK, "net2"))
NUMBERED = pod(NetworkRequest(FRONT, None))
CASES = [
    ("all agree", says(FRONT), AS_NET1, []),
    ("no pod, or it asks for none", says(FRONT), None, []),
    ("the cluster's default network", says(BACK, ifname="eth0"), NUMBERED, []),
    ("misspelt", says(FORNT), None, ["no such net-attach-def; did you mean shop/front? Only"]),
    (
        "misspelt, and the pod says",
        says(FORNT),
        AS_NET1,
        ["did you mean", "its pod asks for shop/front. Only"],
    ),
    ("another one", says(BACK), AS_NET1, ["asks for shop/front. Only policies for shop/back govern it"]),
    ("another one, numbered", says(BACK), NUMBERED, ["asks for shop/front"]),
    ("another one, and both govern", says(BACK, FRONT), AS_NET1, []),
    (
        "none there, and both govern",
        says(FORNT, FRONT),
        None,
        ["policies for shop/fornt and shop/front govern"],
    ),
    ("other evidence", says(FORNT, evidence="multus-cache", configured=""), AS_NET1, []),
    ("after DEL", says(FORNT, withdrawn=True), AS_NET1, []),
]


@pytest.mark.parametrize(("name", "of", "asking", "said"), CASES, ids=[case[0] for case in CASES])
def test_doubts(name: str, of: Record, asking: Pod | None, said: list[str]) -> None:
    found = config_doubts(of, asking, {FRONT, BACK})
    assert len(found) == len(said)
    for text, words in zip(found, said, strict=True):
        assert words in text
        assert text.startswith(f"its configuration says netAttachDef {of.configured}, and ")
