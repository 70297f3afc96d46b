"""Listings as `iptables -S` prints them with a Docker Engine 20.10."""

from supervisor.provision.firewall import cleaning

FILTER = """\
-P INPUT ACCEPT
-P FORWARD DROP
-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-USER
-N OTHERS
-A INPUT -i eth0 -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o ts-bridge0 -j DOCKER
-A FORWARD -i ts-bridge0 ! -o ts-bridge0 -j ACCEPT
-A FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i ts-bridge0 ! -o ts-bridge0 -j RETURN
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -j RETURN
-A OTHERS -i docker0 -j DROP
"""


def test_all_that_an_engine_made_goes_and_nothing_else() -> None:
    assert cleaning(FILTER, ["ts-bridge0"], before=[]) == [
        ["-D", "FORWARD", "-j", "DOCKER-USER"],
        ["-D", "FORWARD", "-j", "DOCKER-ISOLATION-STAGE-1"],
        ["-D", "FORWARD", "-o", "ts-bridge0", "-j", "DOCKER"],
        ["-D", "FORWARD", "-i", "ts-bridge0", "!", "-o", "ts-bridge0", "-j", "ACCEPT"],
        ["-F", "DOCKER"],
        ["-F", "DOCKER-ISOLATION-STAGE-1"],
        ["-F", "DOCKER-USER"],
        ["-X", "DOCKER"],
        ["-X", "DOCKER-ISOLATION-STAGE-1"],
        ["-X", "DOCKER-USER"],
    ]


def test_chains_that_were_there_before_keep_all_but_our_rules() -> None:
    before = ["DOCKER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-USER"]
    assert cleaning(FILTER, ["ts-bridge0"], before) == [
        ["-D", "FORWARD", "-o", "ts-bridge0", "-j", "DOCKER"],
        ["-D", "FORWARD", "-i", "ts-bridge0", "!", "-o", "ts-bridge0", "-j", "ACCEPT"],
        ["-D", "DOCKER-ISOLATION-STAGE-1", "-i", "ts-bridge0", "!", "-o", "ts-bridge0", "-j", "RETURN"],
    ]


def test_an_administrators_rules_in_docker_user_stay() -> None:
    listing = FILTER + "-A DOCKER-USER -s 203.0.113.0/24 -j DROP\n"
    calls = cleaning(listing, ["ts-bridge0"], before=[])
    assert not [call for call in calls if "DOCKER-USER" in call]


def test_an_empty_table_needs_nothing() -> None:
    assert cleaning("-P INPUT ACCEPT\n", ["ts-bridge0"], before=[]) == []
