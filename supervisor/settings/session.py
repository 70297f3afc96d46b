"""How long a session lives, at what pace it moves bytes, and what is recorded of it."""

from pathlib import Path

import attrs

from supervisor.settings.knob import (
    KIB,
    MIB,
    MINUTE,
    Between,
    absolute,
    boolean,
    if_any,
    milliseconds,
    parse_size,
    path,
    setting,
)


@attrs.frozen(kw_only=True, slots=False)
class SessionSettings:
    """See `Settings`."""

    idle_timeout: float = setting(
        "TERMINAL_IDLE_TIMEOUT_MS",
        10 * MINUTE,
        milliseconds,
        "Time without a key before a session ends.",
        Between(1, 1e6),
    )
    max_duration: float = setting(
        "MAX_SESSION_DURATION_MS", 30 * MINUTE, milliseconds, "Longest life of a session.", Between(1, 1e6)
    )
    timeout_warning: float = setting(
        "TIMEOUT_WARNING_MS",
        60.0,
        milliseconds,
        "How long before a timeout the user is warned.",
        Between(0, 3600),
    )
    resume_grace: float = setting(
        "RESUME_GRACE_MS",
        5 * MINUTE,
        milliseconds,
        "Life of a session that nobody watches.",
        Between(0, 1e6),
    )
    scrollback: int = setting(
        "MAX_OUTPUT_BUFFER_SIZE",
        MIB,
        parse_size,
        "Output kept for a resume, bytes.",
        Between(64 * KIB, 64 * MIB),
    )
    input_rate: int = setting(
        "INPUT_RATE", 256 * KIB, parse_size, "Input per session, bytes per second.", Between(64, 1024 * MIB)
    )
    input_burst: int = setting(
        "INPUT_BURST",
        2 * MIB,
        parse_size,
        "Input accepted at once before the rate applies, bytes.",
        Between(KIB, 256 * MIB),
    )
    message_rate: int = setting(
        "INPUT_MESSAGE_RATE",
        1000,
        int,
        "Messages to a session per second; more wait.",
        Between(1, 1_000_000),
    )
    message_burst: int = setting(
        "INPUT_MESSAGE_BURST",
        10_000,
        int,
        "Messages accepted at once before that rate applies.",
        Between(1, 10_000_000),
    )
    output_rate: int = setting(
        "OUTPUT_RATE",
        0,
        parse_size,
        "Output of a session, bytes per second: a faster program waits; 0: as fast as its viewers.",
        Between(0, 1 << 40),
    )
    command_rate: int = setting(
        "MAX_COMMANDS_PER_MINUTE",
        0,
        int,
        "Commands that a session's restricted shell may start per minute: then its keys wait; 0: no limit.",
        Between(0, 1_000_000),
    )
    recording_directory: Path | None = setting(
        "RECORDING_DIRECTORY",
        None,
        path,
        "Directory, of this user alone (mode 0700), in which each session's output is recorded; empty: "
        "nothing is recorded.",
        absolute,
    )
    recording_required: bool = setting(
        "RECORDING_REQUIRED",
        False,
        boolean,
        "Refuse, or end, sessions that cannot be recorded completely; otherwise they go on without.",
    )
    record_input: bool = setting(
        "RECORD_INPUT",
        False,
        boolean,
        "Record what is typed, too: passwords are among it.",
    )
    recording_max_size: int = setting(
        "RECORDING_MAX_SIZE",
        64 * MIB,
        parse_size,
        "Longest recording of a session, bytes; it ends there.",
        Between(64 * KIB, 1 << 40),
    )
    recording_directory_max_size: int = setting(
        "RECORDING_DIRECTORY_MAX_SIZE",
        10 * 1024 * MIB,
        parse_size,
        "All that is in the directory, bytes; nothing is recorded beyond it. 0: no limit.",
        if_any(MIB, 1 << 50),
    )
    recording_min_free: int = setting(
        "RECORDING_MIN_FREE",
        1024 * MIB,
        parse_size,
        "Space of the directory's file system that recordings leave to others, bytes.",
        Between(0, 1 << 50),
    )
