"""What every connection needs to know: who may come in, where the sessions are, what the page looks like.

The house turns what a client presents into an `Identity`, and an identity into a session, new or resumed.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias
from weakref import WeakSet

import attrs
import trio

from supervisor.admission.access_token import AccessTokens
from supervisor.admission.address import Client
from supervisor.admission.capacity import Capacity
from supervisor.admission.credentials import (
    Credentials,
    local_credentials,
    unsigned_credentials,
    verify_signed_config,
)
from supervisor.admission.door import Door
from supervisor.admission.environment import filter_client_environment
from supervisor.admission.token import OneTimeTokens, cookie_values
from supervisor.errors import SessionRefusedError
from supervisor.gateway.http import Request
from supervisor.observability.traces import span
from supervisor.profiles import read_profiles
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.terminal import LeaseRequest, SandboxProvider
from supervisor.session.recording import RECORDED
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.session.visitor import Standing, Visitor
from supervisor.settings import Settings

NO_ISOLATION = "No isolation: this terminal is a plain process of the host. Use it for development only."


@attrs.frozen
class Presented:
    """What a client presents in its first message, whichever protocol it speaks. Nothing of it is trusted
    yet."""

    config: str | None = attrs.field(default=None, repr=False)
    signature: str | None = attrs.field(default=None, repr=False)
    api_key: str | None = attrs.field(default=None, repr=False)
    access_token: str | None = attrs.field(default=None, repr=False)
    token: str | None = attrs.field(default=None, repr=False)
    environment: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)


@attrs.frozen
class Identity:
    """Who a client is, as far as it matters here.

    Attributes:
        owner: keyed digest that a session is bound to.
        environment: variables of the session's command.
        standing: what kind of visitor that makes.
        bypasses_limits: whether limits of rates do not hold, which a signed config may ask for where the
            operator allows it.
        profile: kind of session that a signed config has chosen; empty for the ordinary one.
    """

    owner: bytes = attrs.field(repr=False)
    environment: dict[str, str] = attrs.field(repr=False)
    standing: Standing = "local"
    bypasses_limits: bool = False
    profile: str = ""


@attrs.frozen
class Applicant:
    """Who asks for a new session, for an `AdmissionHook`.

    Attributes:
        standing: `local`, `authenticated` or `anonymous`.
        address: of the client; empty where it has none.
        profile: that a signed config has chosen; empty for the ordinary settings.
        owner: keyed digest of the credentials, the same for the same credentials while this process lives.
    """

    standing: Standing
    address: str
    profile: str
    owner: bytes = attrs.field(repr=False)


AdmissionHook: TypeAlias = Callable[[Applicant], Awaitable[None]]
"""Asked before each new session. It lets the applicant in by returning, and refuses by raising
`SessionRefusedError`, whose text the client gets. It has `HOOK_TIMEOUT` seconds.
"""

HOOK_TIMEOUT = 10.0


class House:
    """Shared by all connections; knows nothing of any of them but how long it may wait.

    Attributes:
        closing: why visitors are not welcome now; None while they are.
        port: that clients connect to, known once the gateway listens.
        on_redeemed: called when a one-time token has been used, so that the next one can be announced.
    """

    def __init__(
        self,
        settings: Settings,
        provider: SandboxProvider,
        registry: SessionRegistry,
        tokens: OneTimeTokens,
        admit: AdmissionHook | None = None,
    ) -> None:
        self.settings = settings
        self.closing: EndReason | None = None
        self.port = settings.port
        self.tls = settings.tls_certificate is not None
        self.on_redeemed: Callable[[], None] = lambda: None
        self.provider = provider
        self.registry = registry
        self.door = Door(settings)
        self.profiles = read_profiles(settings)
        self.capacity = Capacity(settings, registry)
        self.tokens = tokens
        self._admit = admit
        self._access_tokens = AccessTokens(settings)
        self._digest_key = secrets.token_bytes(32)
        self._waits: WeakSet[trio.CancelScope] = WeakSet()

    def keys(self) -> dict[str, Any]:
        """Return what visitors are recognised by, for another process that goes on: secrets, JSON."""
        return {"digest": self._digest_key.hex(), "tokens": self.tokens.keys()}

    def use_keys(self, keys: dict[str, Any]) -> None:
        """Recognise the visitors of the process whose `keys` these are."""
        self._digest_key = bytes.fromhex(keys["digest"])
        self.tokens.use_keys(keys["tokens"], self.settings.access_token)

    def settings_of(self, profile: str) -> Settings:
        """Return what holds for sessions of `profile`; the ordinary settings where there is none (any
        more)."""
        return self.profiles.get(profile, self.settings)

    def close(self, reason: EndReason) -> None:
        """Let nobody wait any longer who has no session."""
        self.closing = reason
        for wait in self._waits:
            wait.cancel()

    def reopen(self) -> None:
        """Welcome visitors again."""
        self.closing = None

    def patience(self, seconds: float) -> trio.CancelScope:
        """As `trio.move_on_after`, for a wait that ends early when the house closes."""
        wait = trio.move_on_after(0 if self.closing else seconds)
        self._waits.add(wait)
        return wait

    def notice(self, session: Session) -> str | None:
        """What every page says about the isolation of sessions, as it is on attaching, and that this one is
        recorded; None when there is nothing to say.
        """
        notices = [RECORDED] if self.is_recorded(session) else []
        if not self.provider.isolated:
            notices.append(NO_ISOLATION)
        security = self.provider.security
        if security.without:
            names = ", ".join(security.without)
            notices.append(f"This server runs without these measures of hardening: {names}.")
        if security.failing:
            names = ", ".join(str(each.measure) for each in security.failing)
            notices.append(f"These measures of hardening do not hold at the moment: {names}.")
        return " ".join(notices) or None

    def is_recorded(self, session: Session) -> bool:
        """Whether what happens in `session` from now on is recorded, which its user is told."""
        return session.recording is not None and session.recording.goes_on

    @property
    def ready(self) -> bool:
        """Whether a session could be started now, as far as is known."""
        return (
            self.closing is None
            and len(self.registry) < self.settings.max_sessions
            and self.provider.unavailable is None
            and self.registry.recorder.unavailable is None
        )

    @property
    def needs_token(self) -> bool:
        """Whether clients must show a token: without a signing secret nothing else tells friend from foe."""
        return not self.settings.signing_secret

    def has_token(self, request: Request) -> bool:
        """Whether the request has a cookie that a token bought, or the reusable token in its query."""
        cookies = cookie_values(request.cookies, self.port, tls=self.tls)
        return any(map(self.tokens.cookie_valid, cookies)) or self.tokens.is_reusable(
            request.query.get("token", "")
        )

    def redeem(self, token: str) -> str | None:
        """Return the cookie that a one-time token buys, or None when it is not (or no longer) good."""
        cookie = self.tokens.redeem(token)
        if cookie is not None:
            self.on_redeemed()
        return cookie

    def identify(self, presented: Presented, has_token: bool) -> Identity:
        """Return the identity behind what a client presents, who may have shown a token already.

        Raises:
            SessionRefusedError: it is not accepted (`credentials`); the text does not say what was nearly
                right.
        """
        credentials = self._credentials(
            presented, has_token or self.tokens.is_reusable(presented.token or "")
        )
        if credentials.access_token is not None:
            verified = self._access_tokens.check(credentials.access_token, time.time())
            credentials = attrs.evolve(credentials, token_verified=verified)
        if credentials.profile and credentials.profile not in self.profiles:
            raise SessionRefusedError(EndReason.POLICY.value, "There is no such profile here.")
        environment = filter_client_environment(presented.environment, self.settings.environment_allow)
        return Identity(
            owner=credentials.digest(self._digest_key),
            environment=environment | credentials.environment(),
            standing="local" if self.needs_token else credentials.standing,
            bypasses_limits=credentials.bypass_rate_limit and self.settings.allow_bypass,
            profile=credentials.profile,
        )

    def _credentials(self, presented: Presented, has_token: bool) -> Credentials:
        settings = self.settings
        if settings.signing_secret and presented.config is not None:
            now_ms = int(time.time() * 1000)
            return verify_signed_config(
                presented.config,
                presented.signature,
                [settings.signing_secret, *settings.further_secrets],
                settings.signed_config_max_age,
                now_ms,
            )
        if settings.signing_secret and not settings.allow_unsigned:
            raise SessionRefusedError(EndReason.CREDENTIALS.value, "A signed config is needed.")
        if self.needs_token and not has_token:
            raise SessionRefusedError(
                EndReason.CREDENTIALS.value, "Open the address that the server printed: it holds a token."
            )
        if self.needs_token and not presented.api_key and not presented.access_token:
            return local_credentials()
        return unsigned_credentials(presented.api_key, presented.access_token, time.time())

    async def open_session(
        self, identity: Identity, client: Client, session_id: str | None, cols: int, rows: int
    ) -> tuple[Session, bool]:
        """Return the session to attach to, and whether it is an old one.

        Raises:
            SessionRefusedError: the id belongs to other credentials, was used too often, or there is no room.
            SandboxError: a new one could not be started.
        """
        session = self.registry.find(session_id, identity.owner) if session_id else None
        if session_id and session and session.visitor.profile == identity.profile:
            if not identity.bypasses_limits:
                self.door.resume(client, session_id)
            return session, True
        key = b"" if client.exempt or identity.bypasses_limits else client.key
        visitor = Visitor(identity.standing, key, identity.profile)
        settings = self.settings_of(identity.profile)
        request = LeaseRequest(
            session_id="",
            command=settings.command,
            environment=identity.environment,
            cols=cols,
            rows=rows,
            profile=identity.profile,
        )
        with span("session start", standing=visitor.standing, profile=visitor.profile):
            if self._admit:
                with span("admission hook"):
                    await self._ask_hook(self._admit, identity, client)
            with span("room"):
                await self.capacity.admit(identity.owner, visitor)
            return await self.registry.create(identity.owner, request, visitor, settings), False

    async def _ask_hook(self, admit: AdmissionHook, identity: Identity, client: Client) -> None:
        address = "" if client.address is None else str(client.address)
        try:
            with trio.fail_after(HOOK_TIMEOUT):
                await admit(Applicant(identity.standing, address, identity.profile, identity.owner))
        except trio.TooSlowError:
            raise SessionRefusedError(
                EndReason.UNAVAILABLE.value, "Nobody has decided whether you may come in. Please try again."
            ) from None
