"""Whose what the kernel denied was: denials by AppArmor and seccomp become audit events of sessions."""

from collections.abc import Callable
from typing import Final

import trio

from supervisor.errors import ConfigurationError
from supervisor.observability.audit import audit_limited
from supervisor.observability.denials import Denial, KernelDenials
from supervisor.observability.log import get_logger
from supervisor.observability.redaction import session_digest
from supervisor.sandbox.apparmor import GATE_PROFILE, SESSION_PREFIX
from supervisor.sandbox.seen import user_of

_log = get_logger("sandbox")

_OURS: Final = (GATE_PROFILE, SESSION_PREFIX)


async def report_denials(session_of: Callable[[int], tuple[str, str]]) -> None:
    """Put what the kernel denies to our containers into the audit log, until cancelled; return where that
    cannot be read, and say so in the log.

    Args:
        session_of: returns the container and the session whose processes have that user id on this host,
            empty where there are none.
    """
    try:
        kernel = KernelDenials()
    except ConfigurationError as error:
        _log.info("what AppArmor and seccomp deny is not audited", problem=str(error))
        return
    try:
        async for denial in kernel.denials():
            report(denial, session_of)
    finally:
        kernel.close()


def report(denial: Denial, session_of: Callable[[int], tuple[str, str]]) -> None:
    """Tell one denial, if it is one of ours."""
    uid = user_of(denial.pid) if denial.uid is None else denial.uid
    container, session = ("", "") if uid is None else session_of(uid)
    if not container and not denial.profile.startswith(_OURS):
        return
    audit_limited(
        f"{denial.by} denied",
        "warning",
        container or denial.profile,
        trio.current_time(),
        session=session_digest(session) if session else "",
        container=container,
        profile=denial.profile,
        operation=denial.operation,
        target=denial.target,
        command=denial.command,
        process=denial.pid,
    )
