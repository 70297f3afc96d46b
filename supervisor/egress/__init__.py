"""Where sessions may send packets: to listed names, on listed ports, and nowhere else.

Three parts, all on the host, outside of any container. *Rules* of nftables on the bridge of the sessions'
network drop everything but two kinds of packets, and hand these to the other two: a *resolver* (dnsmasq) that
answers for listed names only and puts their addresses into sets of the rules, and a *relay* that lets a
connection to one of these addresses through when its TLS handshake asks for a listed name. A *keeper* process
holds the parts together and says whether they stand; `watch` is how a supervisor hears of it.

Nothing in here knows about Docker: a `Plan` names a bridge. docs/network.md tells the whole story.
"""
