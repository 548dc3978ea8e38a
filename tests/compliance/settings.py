"""The sample site's settings, with room for the suite's largest messages and compression."""

from sample_site.settings import *  # noqa: F403

DEBUG = False
# Everything is compressed: kosoku 0.1.0 passes an uncompressed answer on a compressed connection to
# its cases as str, of either kind, and they fail on that.
WEBSOCKET_COMPRESSION = {"threshold": 0}
# kosoku 0.1.0 takes the first ping for the end of a case's time: "did not finish within 480
# seconds" after 20, with every message so far in order. Only slower cases reach that point.
WEBSOCKET_PING_INTERVAL = 0
WEBSOCKET_MAX_MESSAGE_SIZE = 16 * 2**20
