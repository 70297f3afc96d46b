"""Every knob once: its name, environment variable, default, unit, range and one sentence.

Settings are a frozen value, made at start from the environment, `.env` and a TOML file, and validated all at
once; they are handed to whoever needs them. Nothing else reads the environment. Durations are seconds inside
the program; variables that end in `_MS` are milliseconds, as their established names say.

Each room's knobs are a class of their own in a module of its name; here they are one value, with what must
hold between them.
"""

import ipaddress
from pathlib import Path

import attrs

from supervisor.errors import ConfigurationError
from supervisor.settings.admission import AdmissionSettings
from supervisor.settings.gateway import GatewaySettings
from supervisor.settings.knob import allowed, written
from supervisor.settings.operation import OperationSettings
from supervisor.settings.sandbox import SandboxSettings
from supervisor.settings.session import SessionSettings
from supervisor.settings.set_up import SetUpSettings


# attrs lists the fields of the last base first.
@attrs.frozen(kw_only=True, slots=False)
class Settings(
    OperationSettings, SetUpSettings, SandboxSettings, SessionSettings, AdmissionSettings, GatewaySettings
):
    """The effective configuration. Each field has its variable, its parser and its sentence as metadata."""

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach the listener."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def state_directory(self) -> Path:
        """Where set-up keeps what it makes."""
        if self.state is not None:
            return self.state
        checkout = Path(__file__).parents[2]
        if (checkout / "pyproject.toml").exists():
            return checkout / ".state"
        return Path("~/.local/state/terminal-supervisor").expanduser()

    @property
    def gate_file(self) -> Path:
        """The gate's program on this host."""
        return self.gate or self.state_directory / "bin/gate"

    def __attrs_post_init__(self) -> None:
        problems: list[str] = []
        for field in attrs.fields(Settings):
            value, check = getattr(self, field.name), field.metadata["check"]
            if check and (problem := check(value)):
                told = problem if isinstance(problem, str) else f"must be {allowed(field)}"
                shown = "(secret)" if field.metadata["secret"] else written(field, value)
                problems.append(f"{field.metadata['env']}={shown}: {told}")
        if not self.egress_domains:  # nowhere to go, so there is no need for a network
            object.__setattr__(self, "network", "none")
        if not self.loopback:
            if not self.signing_secret:
                problems.append(
                    f"HOST={self.host}: without TERMINAL_SERVER_SIGNING_SECRET only loopback is possible; "
                    "set a secret or HOST=127.0.0.1"
                )
            if self.provider == "local":
                problems.append(
                    f"HOST={self.host}: SANDBOX_PROVIDER=local has no isolation and listens on loopback only"
                )
            if not self.tls_certificate and not self.insecure_plain_ws:
                problems.append(
                    f"HOST={self.host}: plain ws:// shows credentials on the wire; set TLS_CERTIFICATE_FILE, "
                    "or INSECURE_PLAIN_WS=true when a proxy before this server does TLS"
                )
        if self.signing_secret and len(self.signing_secret) < 16:
            problems.append("TERMINAL_SERVER_SIGNING_SECRET: must have at least 16 characters")
        if self.trusted_proxy and not self.trusted_proxies:
            problems.append("TRUSTED_PROXY_ENABLED=true: TRUSTED_PROXY_IPS must name the proxies")
        if self.proxy_protocol and not self.trusted_proxy:
            problems.append("PROXY_PROTOCOL=true: needs TRUSTED_PROXY_ENABLED and TRUSTED_PROXY_IPS")
        if any(len(secret) < 16 for secret in self.further_secrets):
            problems.append("FURTHER_SIGNING_SECRETS: each must have at least 16 characters")
        if self.further_secrets and not self.signing_secret:
            problems.append("FURTHER_SIGNING_SECRETS: needs TERMINAL_SERVER_SIGNING_SECRET beside it")
        if (self.jwt_audience or self.jwt_issuer) and not self.jwt_keys:
            problems.append("JWT_AUDIENCE and JWT_ISSUER: need JWT_KEYS_FILE")
        if self.webhook_url and len(self.webhook_secret) < 16:
            problems.append("WEBHOOK_SECRET: must have at least 16 characters, where WEBHOOK_URL is set")
        if self.recording_required and self.recording_directory is None:
            problems.append("RECORDING_REQUIRED=true: needs RECORDING_DIRECTORY")
        if self.access_token and len(self.access_token) < 16:
            problems.append("LOCAL_ACCESS_TOKEN: must have at least 16 characters")
        if self.admin_token and len(self.admin_token) < 16:
            problems.append("ADMIN_TOKEN: must have at least 16 characters")
        if problems:
            raise ConfigurationError("bad settings:\n  " + "\n  ".join(problems))
