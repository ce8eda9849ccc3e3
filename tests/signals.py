"""With which signals the processes of tests start, whatever started the tests.

In: this process, whose starter may have had some signals ignored or blocked (nohup; `&` in a script; a CI).
Both are inherited by every process that it starts. Out: processes that start as from a terminal.
"""

import signal

ORDINARY = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGALRM,
    # Where it is ignored, nobody learns how a child has ended.
    signal.SIGCHLD,
)


def let_children_start_afresh() -> None:
    """Unblock them, and ignore by a function what was ignored: no program that is executed inherits that.

    To be called in the main thread.
    """
    for number in ORDINARY:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ORDINARY)
