"""Sign a config, as a page's own server does: `python sign.py API_KEY [ACCESS_TOKEN]`.

The secret is TERMINAL_SERVER_SIGNING_SECRET of the environment. What is printed goes into the page, which
sends both texts as they are: the signature is over the exact bytes of `config`.
"""

import hashlib
import hmac
import json
import os
import sys
import time


def sign(secret: str, **values: object) -> dict[str, str]:
    """Return the config, with the present time in it, and its signature."""
    config = json.dumps({**values, "timestamp": int(time.time() * 1000)})
    signature = hmac.new(secret.encode(), config.encode(), hashlib.sha256).hexdigest()
    return {"config": config, "signature": signature}


if __name__ == "__main__":
    given = dict(zip(("apiKey", "accessToken"), sys.argv[1:], strict=False))
    print(json.dumps(sign(os.environ["TERMINAL_SERVER_SIGNING_SECRET"], **given)))
