"""Sessions on gVisor with a network, in the network namespace of the test's own engine: run as a program.

nsenter --net --target PID python on_network.py ENGINE RUNTIME WITHOUT
"""

import sys

import attrs
import pytest
import trio
from faults.supervised import WORKBENCH
from sandbox.conftest import execute

from supervisor.errors import ConfigurationError
from supervisor.measures import Measure
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings

NETWORK = "ts-test-gvisor"


async def main(url: str, runtime: str, without: str) -> None:
    settings = Settings(
        docker_host=url,
        runtime=runtime,
        transport="attach",
        image=WORKBENCH,
        container_user="1000:1000",
        network=NETWORK,
        command=("sleep", "60"),
        pids_limit=256,
        hardening_without=tuple(filter(None, without.split(","))),
        egress_dns_servers=("127.0.0.1",),  # nobody is there
    )
    with trio.fail_after(100):
        async with open_docker_provider(settings) as provider:
            status = provider.security
            assert status.failing == ()
            assert {str(each.measure) for each in status.measures if each.verified == ("packets",)} == {
                "egress",
                "isolation",
            }
            covered = {each.measure for each in status.measures if each.covered}
            assert covered == {Measure.APPARMOR, Measure.LANDLOCK, Measure.USERNS} - set(
                settings.hardening_without
            )
            async with provider.lease(LeaseRequest("one")):
                container = provider.occupied["one"].container
                _, text = await execute(container, "cat", "/etc/resolv.conf", "/proc/net/dev")
                assert text.splitlines()[0] == f"nameserver {provider.network.gateway}", text
                assert "eth0:" in text
        if without:
            return
        # The proof can fail: somebody lets neighbours through, on a network of which nobody filters anything.
        await trio.run_process(["iptables", "-w", "-I", "FORWARD", "-j", "ACCEPT"])
        without_egress = (*settings.hardening_without, "egress")
        with pytest.raises(ConfigurationError, match=r"reach each other \(TCP and UDP\)"):
            async with open_docker_provider(
                attrs.evolve(settings, network=f"{NETWORK}-open", hardening_without=without_egress)
            ):
                raise AssertionError
        await trio.run_process(["iptables", "-w", "-D", "FORWARD", "-j", "ACCEPT"])


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
