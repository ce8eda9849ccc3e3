"""The Kubernetes source: a real API server as the cluster's objects.

`kubeconfig` and `login` say where and as whom, `client` asks, `stream` reads, `reflector` keeps one
collection, `cache` merges them, `state` draws the conclusions, `errands` asks for the rest, `source` wires.
"""
