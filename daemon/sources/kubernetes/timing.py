"""How long what lasts of a reflector.

In: nothing. Out: a type.
"""

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """All times in seconds. watch: how long a watch may last, by chance between the two.

    silence: without even a bookmark, of which servers send one a minute. initial: for all events of a
    streaming list. steady: a watch that lasted so long makes earlier failures forgotten. first_rest,
    most_rest: between tries. absent_rest: the longest between looks for a kind that is not installed.
    linger: how long the peers' watch goes on after the last policy that needs it: an edit may be two steps.
    again: between lists for the sake of what was not kept of the last one; each time twice as long, up to
    most_again, for a tenant can cause them.
    """

    watch: tuple[float, float] = (300.0, 600.0)
    silence: float = 150.0
    initial: float = 300.0
    steady: float = 5.0
    first_rest: float = 0.8
    most_rest: float = 30.0
    absent_rest: float = 10.0
    linger: float = 60.0
    again: float = 60.0
    most_again: float = 3600.0
