"""The process that `tests.lab.prober` starts inside a pod: probes, answers, holds, floods, counts.

It starts once a pod, so it imports the standard library only, and is run without site-packages.
"""
