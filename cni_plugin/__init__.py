"""The CNI plugin: one short process between a container runtime and the node's daemon."""
