"""Tier kube: a real API server, with the part of Multus played as Multus documents it."""
