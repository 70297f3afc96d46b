"""What set-up makes the default image from, and where it keeps things."""

from pathlib import Path

import attrs

from supervisor.settings.knob import as_is, listed, one_of, path, setting


@attrs.frozen(kw_only=True, slots=False)
class SetUpSettings:
    """See `Settings`."""

    base_image: str = setting(
        "SANDBOX_BASE_IMAGE",
        "",
        as_is,
        "Registry image that the default sandbox image is based on; empty: a base made from Debian packages.",
    )
    base_packages: tuple[str, ...] = setting(
        "SANDBOX_PACKAGES",
        (),
        listed,
        "Debian packages whose programs the made base has; empty: libraries only, and no program.",
    )
    cli_package: str = setting(
        "CLI_NPM_PACKAGE",
        "@ably/cli",
        as_is,
        "CLI from npm to bake into the default sandbox image, with or without a version; none for no CLI.",
    )
    state: Path | None = setting(
        "STATE_DIRECTORY",
        None,
        path,
        "Where set-up keeps what it makes; empty: .state, or in ~/.local/state when installed.",
    )
    engine_remap: str = setting(
        "ENGINE_USERNS_REMAP",
        "auto",
        as_is,
        "Whether set-up's own engine maps containers' users to others of this host; auto: where it can.",
        one_of("auto", "true", "false"),
    )
