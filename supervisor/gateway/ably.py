"""The words of the existing web client: text frames for everything, control messages marked by a prefix, no
acknowledgements.

The client's oddities are met here and in `supervisor.protocol.ably`: the opener that it swallows, the order
of its first messages, the size that it tells only when its terminal is asked for it, output that must not
look like a control message.
"""

import math
from collections.abc import Iterator

import trio

from supervisor.gateway.history import CLEAR, read_history
from supervisor.gateway.house import House, Presented
from supervisor.gateway.v1 import warning_text
from supervisor.gateway.viewer import OUTPUT_PIECE, Opening
from supervisor.protocol import ably
from supervisor.protocol.answers import is_automatic
from supervisor.protocol.closing import CLOSINGS, EndReason, close_reason
from supervisor.protocol.messages import Ignored, Input, Json, Resize
from supervisor.protocol.output import OutputEncoder
from supervisor.protocol.sizeprobe import REQUEST, SizeProbe
from supervisor.session.attachment import (
    Answer,
    Attachment,
    Ended,
    Event,
    Gap,
    Notice,
    Output,
    TimeoutWarning,
)
from supervisor.session.limiter import TokenBucket
from supervisor.session.recording import RECORDED
from supervisor.session.session import Session

FLUSH_AFTER = 0.1  # seconds that an incomplete code point waits for its rest
NO_ISOLATION = b"[no isolation: a plain process of the host]\r\n"
LEAVING_REASONS = frozenset({"user-closed-primary", "user-closed-secondary", "manual-reconnect"})
LEAVING_CODES = frozenset({4002, 4003})


class AblySpeaker:
    """One connection's side of the protocol."""

    def __init__(self, house: House, has_token: bool) -> None:
        self._house = house
        self._has_token = has_token
        self._greeted = house.settings.control_format != "auto"
        self._prefixed = house.settings.control_format != "plain"
        self._encoder = OutputEncoder(plain=not self._prefixed)
        now = trio.current_time()
        self._probe = SizeProbe(now)
        self._pace = TokenBucket(house.settings.unacknowledged_rate, house.settings.output_window, now)

    def _control(self, message: dict[str, Json]) -> str:
        return ably.control(message, prefixed=self._prefixed)

    def greeting(self) -> list[str]:
        """Say `connecting`, unless it is not known yet in which form this client understands it."""
        return [self._control(ably.status("connecting"))] if self._greeted else []

    def authenticate(self, message: str | bytes) -> Opening:
        """Take the authentication message."""
        auth = ably.parse_auth(message)
        if self._house.settings.control_format == "auto":
            self._prefixed = auth.has_config
            self._encoder = OutputEncoder(plain=not self._prefixed)
        presented = Presented(
            auth.config, auth.signature, auth.api_key, auth.access_token, None, auth.environment
        )
        return Opening(self._house.identify(presented, self._has_token), auth.session_id)

    def welcome(self) -> list[str]:
        """Say `connecting` now, if not before."""
        return [] if self._greeted else [self._control(ably.status("connecting"))]

    async def attach(self, session: Session, resumed: bool) -> tuple[Attachment, Iterator[str]]:
        """`connected`, `hello`, the opener, the question for the window's size, and history."""
        told = b"" if self._house.provider.isolated else NO_ISOLATION
        if self._house.is_recorded(session):
            told += self._line(RECORDED).encode()
        offset, output = 0, told + REQUEST
        if resumed:
            history = await read_history(session)
            # Live output goes on in the state in which a replay ends, so nothing comes between the two.
            offset, output = history.offset, CLEAR + output + history.data
            if history.full_screen:
                session.redraw()
            # One of several connections with the same id is the newest; the others give up, or they would
            # take the session from each other for ever.
            session.replace(lambda attachment: not attachment.acknowledges)
        attachment = session.attach(
            offset=offset, window=self._house.settings.output_window, role="writer", acknowledges=False
        )
        self._probe = SizeProbe(trio.current_time())
        return attachment, self._opening_frames(session.id, output)

    def _opening_frames(self, session_id: str, output: bytes) -> Iterator[str]:
        yield self._control(ably.status("connected"))
        yield self._control(ably.hello(session_id))
        yield ably.OPENER
        for position in range(0, len(output), OUTPUT_PIECE):
            if text := self._encoder.encode(output[position : position + OUTPUT_PIECE]):
                yield text

    async def hear(self, message: str | bytes, attachment: Attachment) -> None:
        """Everything that is not a known control message is typed."""
        heard = ably.parse_message(message) if isinstance(message, str) else Input(message)
        match heard:
            case Resize(cols, rows):
                attachment.session.resize(cols, rows)
            case Input(data):
                data, size = self._probe.feed(data, trio.current_time())
                if size is not None:
                    attachment.session.resize(*size)
                await self._type(data, attachment)
            case Ignored():
                pass

    async def _type(self, data: bytes, attachment: Attachment) -> None:
        if data:
            await attachment.session.type(data, is_activity=not is_automatic(data))

    def held_until(self) -> float:
        """When what may be the beginning of the size probe's answer has waited long enough."""
        return math.inf if self._probe.held_until is None else self._probe.held_until

    async def release(self, attachment: Attachment) -> None:
        """It was a key after all."""
        await self._type(self._probe.release(), attachment)

    async def frames(self, event: Event) -> list[str]:
        """Output as text at the pace that xterm.js can take; warnings as a line in the terminal, too."""
        match event:
            case Output():
                await trio.sleep(self._pace.charge(len(event.data), trio.current_time()))
                text = self._encoder.encode(event.data)
                return [text] if text else []
            case Gap():
                return [self._line(f"{event.end - event.start} bytes of output were left out")]
            case TimeoutWarning():
                text = warning_text(event)
                return [self._control(ably.status("warning", text)), self._line(text)]
            case Notice():
                return [self._line(event.text)]
            case Answer():
                return [event.text]
            case _:
                return []

    def at_once(self, output: bytes) -> str | None:
        """Output as text, unless it may hold a part of a character back, or has to wait."""
        now = trio.current_time()
        if self._encoder.pending or not output.isascii() or self._pace.spare(now) < len(output):
            return None
        self._pace.charge(len(output), now)
        return self._encoder.encode(output)

    def _line(self, text: str) -> str:
        # Past the encoder: it may be holding the beginning of a character whose rest comes later.
        return f"\r\n[{text}]\r\n"

    def quiet_after(self) -> float:
        """Soon, while the beginning of a code point is held back."""
        return FLUSH_AFTER if self._encoder.pending else math.inf

    def flush(self) -> list[str]:
        """What was held back, as it is."""
        text = self._encoder.flush()
        return [text] if text else []

    def farewell(self, ended: Ended, message: str | None) -> list[str]:
        """The status that the client shows, where it shall not resume by itself."""
        status = ably.farewell(ended.reason, message)
        lines = self.flush()
        if ended.reason is EndReason.SHUTDOWN:
            lines.append(self._line(CLOSINGS[ended.reason].message))
        return [*lines, self._control(status)] if status else lines

    def close_frame(self, reason: EndReason) -> tuple[int, str]:
        """As in the table."""
        closing = CLOSINGS[reason]
        return closing.ably_code, close_reason(closing.ably_reason)

    def is_leave(self, code: int, reason: str) -> bool:
        """Whether the user closed the terminal, rather than losing the connection."""
        return code in LEAVING_CODES or reason in LEAVING_REASONS
