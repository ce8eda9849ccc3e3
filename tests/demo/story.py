"""The scenes, as rich shows them.

In: a Shop. Out: what a person reads; nothing is decided here.
"""

import subprocess

from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from tests.demo.shop import CLIENTS, POLICIES, SAMPLES, SERVICES, Reach, Shop

EDITED = "policy-api.yaml"
BEFORE, AFTER = "{app: web}\n      ports", "{app: guest}\n      ports"


def tell(console: Console, shop: Shop) -> None:
    """All scenes, in order."""
    _scene(console, "1", "Five pods on two networks")
    _attachments(console, shop)
    _scene(console, "2", "Before: nothing governs them, everybody reaches everybody")
    open_reach = shop.reach()
    console.print(_table(open_reach, open_reach))
    _scene(console, "3", "Four policies are saved into the daemon's directory")
    governed = _policies(console, shop, open_reach)
    _scene(console, "4", "One of them is edited while everything runs")
    _edit(console, shop, governed)
    _scene(console, "5", "What the kernel holds, in the pod's own network namespace")
    _kernel(console, shop)
    _scene(console, "6", "The end")
    count = shop.detach_all()
    console.print(f"{count} attachments deleted by `cnitool del`; namespaces, links and the daemon go now.")


def _scene(console: Console, number: str, title: str) -> None:
    console.print()
    console.rule(f"[bold]{number}. {title}", align="left", style="cyan")


def _attachments(console: Console, shop: Shop) -> None:
    console.print(
        "cnitool runs each network's chain: [cyan]macvlan[/] makes the interface, "
        "[cyan]multi-networkpolicy[/] has it governed\n"
        "before ADD returns. On [cyan]store[/] the plugin stands first as well, as a guard.\n"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("pod", "interface", "network", "address"):
        table.add_column(header)
    table.add_column("cnitool add", justify="right")
    for made in shop.attach_all():
        table.add_row(made.pod, made.ifname, made.network, made.address, f"{made.milliseconds:.0f} ms")
    console.print(table)


def _table(reach: Reach, before: Reach) -> Table:
    """Services down, clients across; what changed since `before` stands out."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("connects to")
    for client in CLIENTS:
        table.add_column(client, justify="center")
    for server, network, port in SERVICES:
        cells = [_cell(reach, before, (server, network, port, client)) for client in CLIENTS]
        table.add_row(f"{server}:{port} on {network}", *cells)
    return table


def _cell(reach: Reach, before: Reach, question: tuple[str, str, int, str]) -> Text:
    verdict = reach.get(question)
    if verdict is None:
        return Text("·", style="dim")
    changed = " bold reverse" if verdict != before[question] else ""
    return Text(" yes ", style=f"green{changed}") if verdict else Text(" no ", style=f"red{changed}")


def _policies(console: Console, shop: Shop, before: Reach) -> Reach:
    for name in POLICIES[:-1]:
        shop.daemon.apply(name, (SAMPLES / name).read_text())
    took = shop.apply(POLICIES[-1], (SAMPLES / POLICIES[-1]).read_text())
    text = (SAMPLES / EDITED).read_text()
    console.print(Panel(Syntax(text.strip(), "yaml", background_color="default"), title=EDITED, expand=False))
    reach = shop.reach()
    console.print(_table(reach, before))
    console.print(f"\nIn force in all pods {took:.0f} ms after the last file was saved.")
    return reach


def _edit(console: Console, shop: Shop, before: Reach) -> None:
    text = (SAMPLES / EDITED).read_text()
    edited = text.replace(BEFORE, AFTER)
    assert edited != text, f"{EDITED} is no longer what this scene edits"
    took = shop.apply(EDITED, edited)
    console.print(
        f"{EDITED}: [red]- app: web[/] [green]+ app: guest[/]\n"
        f"In force {took:.0f} ms after it was saved, the start of `mnpctl wait --synced` included.\n"
    )
    console.print(_table(shop.reach(), before))


def _kernel(console: Console, shop: Shop) -> None:
    command = "nft list chain inet multi-networkpolicy ingress-net1"
    line = ["ip", "netns", "exec", shop.pods["api"].netns.name, *command.split()]
    listed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    console.print(f"[dim]api$[/] {command}")
    console.print(listed.replace("\t", "  ").rstrip(), style="yellow", highlight=False, markup=False)
    console.print("\n[dim]node$[/] mnpctl attachments shop/api")
    for item in shop.daemon.ctl("attachments", "shop/api"):
        governed = ", ".join(item["policies"])
        console.print(f"{item['pod']} {item['interface']} {item['state']}, governed by {governed}")
