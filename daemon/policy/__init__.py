"""Policies to rulesets: pure, no I/O, no clock."""
