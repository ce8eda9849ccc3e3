"""Programs of others, run for what they print: nft, iptables, ipset, ip.

In: a command line, in the namespace that the calling thread is in. Out: its output.
"""

import subprocess


def run(*line: str, text: str | None = None) -> str:
    """A program's output, given `text` as its input; it must succeed."""
    ran = subprocess.run(line, input=text, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, f"{' '.join(line)}: {ran.stderr}"
    return ran.stdout
