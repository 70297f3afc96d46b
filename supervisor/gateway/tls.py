"""Native TLS: certificate files, loaded at start and again when they change.

A renewed certificate is picked up without a restart. Files that do not fit together keep the old certificate
in use and are reported, because a renewal that is half written is normal and a listener without a certificate
is not.
"""

import ssl
from pathlib import Path

import trio

from supervisor.errors import ConfigurationError
from supervisor.observability.log import get_logger

log = get_logger(__name__)

CHECK_INTERVAL = 10.0  # seconds between looks at the files' times


class Tls:
    """The certificate in use.

    Attributes:
        context: for new connections; replaced as a whole on a reload.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._stamp = self._times()
        self.context = self._load()

    def wrap(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        """Return the server's side of a TLS connection over `stream`; the handshake happens on first use."""
        return trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)

    def reload(self) -> bool:
        """Load the files again; returns whether that worked."""
        try:
            self.context = self._load()
        except ConfigurationError as error:
            log.warning("certificate not reloaded, the old one stays in use", problem=str(error))
            return False
        log.info("certificate reloaded", file=str(self._certificate))
        return True

    async def watch(self) -> None:
        """Reload whenever a file has changed, until cancelled."""
        while True:
            await trio.sleep(CHECK_INTERVAL)
            if (stamp := self._times()) != self._stamp and self.reload():
                self._stamp = stamp

    def _times(self) -> list[int | None]:
        files = [self._certificate, *([self._key] if self._key else [])]
        return [file.stat().st_mtime_ns if file.exists() else None for file in files]

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"TLS_CERTIFICATE_FILE={self._certificate}, TLS_KEY_FILE={self._key or '(same)'}: {error}"
            ) from error
        return context
