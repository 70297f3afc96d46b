import io
import re

import pytest

from supervisor.provision.report import Report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_line_per_step_in_a_log() -> None:
    stream = io.StringIO()
    report = Report(stream)
    with report.step("engine") as step:
        step.progress("starting")
        step.result = "started"
    assert stream.getvalue() == "  engine       started\n"


def test_notices_stay_and_failures_show() -> None:
    stream = io.StringIO()
    with pytest.raises(OSError, match="gone"), Report(stream).step("image") as step:
        step.notice("built without a CLI")
        raise OSError("gone")
    assert stream.getvalue() == "  image        built without a CLI\n  image        failed\n"


def test_progress_overwrites_itself_on_a_terminal() -> None:
    stream = Terminal()
    with Report(stream).step("page") as step:
        step.progress("fetching   a\nthing" + "x" * 500)
        step.result = "ready"
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\r\x1b[K  page         ready\n")
    assert len(re.sub(r"\x1b\[K|\r", "", text.splitlines()[0])) < 300
