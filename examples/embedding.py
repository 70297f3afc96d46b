"""Serve terminals inside one's own Trio program: decide who comes in, and hear of starts and ends.

SANDBOX_PROVIDER=local SESSION_COMMAND=sh PORT=0 python examples/embedding.py
"""

from contextlib import suppress

import trio

from supervisor import Applicant, Session, SessionRefusedError, load_settings, open_provider, running

BANNED = {"203.0.113.7"}


async def admit(applicant: Applicant) -> None:
    """Refuse whom this program does not want. It may ask a database here."""
    if applicant.address in BANNED:
        raise SessionRefusedError("policy", "You are not welcome here.")


class Watcher:
    """Hears of sessions; may neither wait nor raise."""

    def session_added(self, session: Session) -> None:
        """One begins."""

    def session_started(self, session: Session) -> None:
        """Its user has a terminal."""
        print(f"{session.label} started for {session.visitor.standing}", flush=True)

    def session_removed(self, session: Session) -> None:
        """It is over."""
        print(f"{session.label} is over", flush=True)


async def main() -> None:
    """Serve until Ctrl-C."""
    settings = load_settings()
    async with (
        open_provider(settings) as provider,
        running(settings, provider, admit=admit, watchers=[Watcher()]) as supervisor,
    ):
        print(f"Open {supervisor.url}", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        trio.run(main)
