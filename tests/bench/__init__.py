"""What `./build.sh bench` measures: each figure beside its budget.

In: the built plugin, the installed daemon, the lab. Out: a table, or JSON. Alternatives that are compared
run interleaved in one run, because the speed of a shared machine drifts by a third; a ratio of two that ran
in the same second does not.
"""
