"""What one kind of session finds on this host: measures that cannot be had, its image, the profiles for that.

Looked at once for each start (and for each profile of the operator's), and handed to whoever needs it: to
read an image takes containers of its own, which are never started.
"""

from collections.abc import Mapping

import attrs

from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.measures import Measure, parse_opt_outs
from supervisor.sandbox.apparmor import make_session_profile
from supervisor.sandbox.apparmor_kernel import LoadedProfile, prove_profiles
from supervisor.sandbox.egress import missing_egress
from supervisor.sandbox.identity import Identity
from supervisor.sandbox.image import ImageFacts, read_image
from supervisor.sandbox.network import NO_NETWORK
from supervisor.sandbox.verify import EngineFacts, missing_measures
from supervisor.settings import Settings


@attrs.frozen
class Surroundings:
    """What was found.

    Attributes:
        missing: measures that cannot be had here, whether required or not: why, and how to get them.
        image: None when it is not as it must be.
        problems: of the image.
        session_profile: name of the AppArmor profile of sessions in it; empty without one.
        profiles: as the kernel has them, which are what this version makes.
    """

    missing: Mapping[Measure, str]
    image: ImageFacts | None
    problems: tuple[str, ...] = ()
    session_profile: str = ""
    profiles: Mapping[str, LoadedProfile] = attrs.field(factory=dict[str, LoadedProfile])


async def look_around(
    docker: Docker, engine: EngineFacts, settings: Settings, identity: Identity
) -> Surroundings:
    """Return what sessions of `settings` find."""
    runtime = engine.runtime_for(settings)
    missing = missing_measures(engine, runtime)
    if settings.network != NO_NETWORK and (why := await missing_egress(settings, local=engine.local)):
        missing[Measure.EGRESS] = why
    image = profile = None
    problems: list[str] = []
    gone_without = parse_opt_outs(settings.hardening_without)
    wanted = Measure.APPARMOR not in (*missing, *gone_without, *runtime.kind.covered)
    try:
        image = await read_image(docker, settings, identity)
        if not (settings.command or image.command):
            problems.append(f"image {settings.image} has no command: set SESSION_COMMAND")
        if wanted:
            profile = await make_session_profile(docker, settings, image, identity)
    except (ConfigurationError, DockerError) as error:
        problems.append(str(error))
    found = Surroundings(missing, image, tuple(problems), profile.name if profile else "")
    if not (wanted and engine.local):  # on another host only the engine can tell
        return found
    try:
        return attrs.evolve(found, profiles=await prove_profiles([profile] if profile else []))
    except ConfigurationError as error:
        missing[Measure.APPARMOR] = str(error)
        return attrs.evolve(found, session_profile="")
