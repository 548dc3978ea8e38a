"""The sample site's settings, with room for the suite's largest messages and compression."""

from sample_site.settings import *  # noqa: F403

DEBUG = False
# Everything is compressed: kosoku 0.1.0 gives its cases an uncompressed answer on a compressed
# connection as str, whatever it is, and they stumble over that.
WEBSOCKET_COMPRESSION = {"threshold": 0}
WEBSOCKET_MAX_MESSAGE_SIZE = 16 * 2**20
