"""One suite over all packet-filter backends: what base.Backend promises, whichever filter carries it out."""
