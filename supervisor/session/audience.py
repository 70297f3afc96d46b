"""Those who watch a session: what is told to all of them, and whether all of them lag."""

from collections.abc import Callable

from supervisor.session.attachment import Attachment, Attendance, Ended, Event


class Audience:
    """The attachments of one session."""

    def __init__(self) -> None:
        self._attachments: set[Attachment] = set()

    def __len__(self) -> int:
        return len(self._attachments)

    def __repr__(self) -> str:
        return f"<Audience of {len(self)}>"

    def add(self, attachment: Attachment) -> None:
        """Have one more."""
        self._attachments.add(attachment)

    def remove(self, attachment: Attachment) -> bool:
        """Have one less; return whether it was there."""
        if attachment not in self._attachments:
            return False
        self._attachments.remove(attachment)
        return True

    def matching(self, wanted: Callable[[Attachment], bool]) -> list[Attachment]:
        """Return those for which `wanted` is true."""
        return [attachment for attachment in self._attachments if wanted(attachment)]

    @property
    def attendance(self) -> Attendance:
        """How many there are, by role."""
        writers = sum(1 for attachment in self._attachments if attachment.role == "writer")
        return Attendance(writers, len(self._attachments) - writers)

    @property
    def lags(self) -> bool:
        """Whether there is somebody, and everybody has a whole window of output still to show."""
        return bool(self._attachments) and all(attachment.is_behind for attachment in self._attachments)

    def tell(self, event: Event) -> None:
        """Tell everybody."""
        for attachment in self._attachments:
            attachment.tell(event)

    def output_came(self) -> None:
        """Let everybody have it."""
        for attachment in self._attachments:
            attachment.output_came()

    def end(self, ended: Ended) -> None:
        """Let everybody go."""
        for attachment in self._attachments:
            attachment.end(ended)
