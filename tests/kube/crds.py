"""The kinds that the tests need beside conf/crd.yaml: net-attach-defs, and policies without a schema."""

from typing import Any

GROUP = "k8s.cni.cncf.io"
_ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _crd(plural: str, kind: str, versions: tuple[str, ...], schema: dict[str, Any]) -> dict[str, Any]:
    names = {"plural": plural, "singular": plural.removesuffix("s"), "kind": kind, "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": names,
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == versions[0],
                    "schema": {"openAPIV3Schema": schema},
                }
                for version in versions
            ],
        },
    }


NET_ATTACH_DEF_CRD = _crd(
    "network-attachment-definitions",
    "NetworkAttachmentDefinition",
    ("v1",),
    {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"config": {"type": "string"}}}},
    },
)
LAX_POLICY_CRD = _crd("multi-networkpolicies", "MultiNetworkPolicy", ("v1beta1", "v1beta2"), _ANYTHING)
