"""For whom a session is, as far as its house has to tell sessions apart. No credential and no address is in
it.
"""

from typing import Literal, TypeAlias

import attrs

Standing: TypeAlias = Literal["local", "anonymous", "authenticated"]


@attrs.frozen
class Visitor:
    """Whose a session is.

    Attributes:
        standing: `local` for whoever has shown a token of this server, `authenticated` with an access token
            that somebody vouches for, `anonymous` for all others.
        key: what sessions are counted by that come from one address; empty when they are not.
        profile: name of the operator's profile that the session runs in; empty for the ordinary settings.
    """

    standing: Standing = "local"
    key: bytes = b""
    profile: str = ""
