"""The rules of nftables for one network of sessions, as text for nft(8).

They have a table of their own, so that no engine and no firewall manager changes them in passing, and they
decide in `prerouting` at priority mangle: after connection tracking, before anybody's address translation, so
what they see is the destination that the session asked for. A drop is final in nftables, whatever other
tables, Docker's and those of legacy iptables among them, would accept later. Only two things get through, and
both only by being redirected to a process of this host: DNS to the resolver, and listed ports of addresses
that the resolver has put into its sets to the relay. So nothing at all has to be forwarded from the bridge,
and a second chain sees to it that nothing is, a third that nothing else of this host is reached.

The resolver's sets are two, and each answer goes into both. In turn one of them is emptied, every
`Plan.address_life` seconds. So an address is let through for that long at least after each answer, however
often it was answered before, and for twice that at most after the last one, whatever a session sends. A time
on the elements would not do: what is in a set already keeps the time of its first answer.
"""

from collections.abc import Iterable
from typing import Final

import attrs

RESOLVER_PORT: Final = 10053
RELAY_PORT: Final = 10443
"""Ports of the bridge's own address that DNS and TLS are redirected to: the well-known ones may be in use."""
ADDRESS_LIFE: Final = 1800.0
"""Seconds, see `Plan.address_life`."""
ANSWERED: Final = ("answered_1", "answered_2")
"""The sets that the resolver puts addresses into."""

FORBIDDEN: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",  # carriers', and some clouds' metadata services
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local, and most clouds' metadata services
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",  # multicast, reserved, broadcast
)
"""Addresses that are never let through, whatever DNS says: private and special ranges (RFC 6890)."""

NOT_REDIRECTED: Final = "a connection that these rules have not let through"
"""Why a packet is denied, as the rules themselves report it: nothing in the packet tells."""
BY_ITSELF: Final = ", ".join(
    (
        "nd-router-solicit",
        "nd-neighbor-advert",
        "mld-listener-query",
        "mld-listener-report",
        "mld-listener-done",
        "mld2-listener-report",
    )
)
"""Types of ICMPv6 that a kernel sends unasked."""

PREFIX: Final = "terminal-supervisor-"
"""Begins the names of our tables; the bridge follows."""


def _strings(values: Iterable[str]) -> tuple[str, ...]:  # JSON knows no tuples
    return tuple(values)


def _numbers(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Plan:
    """All that there is to know about the egress of one network.

    Attributes:
        network: its name, for files and messages.
        bridge: its device on this host.
        gateway: the bridge's own IPv4 address.
        domains: entries of the allow list, see `names`.
        ports: TCP ports of listed names; TLS is spoken on all of them.
        dns_servers: whom the resolver asks; none: those of this host.
        group: group id of those who may hear of denials, besides root: the engine's.
        check_interval: seconds between two looks at rules and resolver.
        address_life: seconds for which an address is let through after each answer, at least; after the last
            one twice that, at most.
    """

    network: str
    bridge: str
    gateway: str
    domains: tuple[str, ...] = attrs.field(converter=_strings)
    ports: tuple[int, ...] = attrs.field(converter=_numbers)
    dns_servers: tuple[str, ...] = attrs.field(default=(), converter=_strings)
    group: int = 0
    check_interval: float = 5.0
    address_life: float = ADDRESS_LIFE

    @property
    def table(self) -> str:
        """Name of its table, in the family `inet`."""
        return PREFIX + self.bridge


def ruleset(plan: Plan, log_group: int) -> str:
    """Return the input of `nft -f -` that puts the rules of `plan`, in one transaction, in place of what is
    there.

    Args:
        plan: whose rules.
        log_group: of nfnetlink_log, which gets the denied packets' headers.
    """
    bridge, gateway = f'"{plan.bridge}"', plan.gateway
    ports = ", ".join(map(str, plan.ports))
    helpers = f"{RESOLVER_PORT}, {RELAY_PORT}"
    log = f"group {log_group} snaplen 64"
    answered = "".join(f"    set {name} {{ type ipv4_addr; size 65535; }}\n" for name in ANSWERED)
    admitted = "\n".join(f"        ip daddr @{name} tcp dport {{ {ports} }} accept" for name in ANSWERED)
    return f"""
table inet {plan.table} {{}}
delete table inet {plan.table}
table inet {plan.table} {{
    counter denied {{ }}
{answered}    set forbidden {{
        type ipv4_addr; flags interval; elements = {{ {", ".join(FORBIDDEN)} }};
    }}
    set asking {{
        type ipv4_addr; flags dynamic, timeout; timeout 1m; size 65535;
    }}
    set talkative {{
        type ipv4_addr; flags dynamic, timeout; timeout 1m; size 65535;
    }}
    set talkative_by_ipv6 {{
        type ether_addr; flags dynamic, timeout; timeout 1m; size 65535;
    }}
    chain deny {{
        counter name denied
        meta nfproto ipv6 goto deny_ipv6
        # Who is denied often is heard of now and then, and takes nobody else's place in the log.
        update @talkative {{ ip saddr limit rate over 5/second burst 20 packets }} drop
        ct state established log prefix "{NOT_REDIRECTED}" {log} drop
        log {log}
        drop
    }}
    chain deny_ipv6 {{
        # What each container sends that has IPv6, and that says nothing: RFC 4861, 4862, 2710, 3810.
        icmpv6 type {{ {BY_ITSELF} }} drop
        ip6 saddr :: icmpv6 type nd-neighbor-solicit drop
        # IPv6 addresses are chosen by who has them: a session is known by its device.
        update @talkative_by_ipv6 {{ ether saddr limit rate over 5/second burst 20 packets }} drop
        log {log}
        drop
    }}
    chain decide {{
        type filter hook prerouting priority mangle; policy accept;
        iifname != {bridge} accept
        meta nfproto ipv6 goto deny
        # Only what was redirected goes on: a connection from before these rules was not.
        ct state established,related ct status dnat accept
        ct state established goto deny
        # What fits no connection, a late reset above all, is no attempt at one, nor is an error by ICMP.
        ct state != new counter name denied drop
        ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 goto ask
        ip daddr @forbidden goto deny
{admitted}
        goto deny
    }}
    chain ask {{
        # One session must not use up the resolver.
        update @asking {{ ip saddr limit rate over 30/second burst 100 packets }} goto deny
        accept
    }}
    chain redirection {{
        type nat hook prerouting priority dstnat - 1; policy accept;
        iifname != {bridge} accept
        ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 redirect to :{RESOLVER_PORT}
        tcp dport {{ {ports} }} redirect to :{RELAY_PORT}
    }}
    chain arrival {{
        type filter hook input priority filter - 1; policy accept;
        iifname {bridge} ct status dnat meta l4proto {{ tcp, udp }} th dport {{ {helpers} }} accept
        # That nobody waits for an answer any more, say.
        iifname {bridge} ct state related counter name denied drop
        iifname {bridge} goto deny
        iifname != "lo" ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport {{ {helpers} }} drop
    }}
    chain passage {{
        type filter hook forward priority filter - 1; policy accept;
        iifname {bridge} goto deny
        oifname {bridge} drop
    }}
}}
"""
