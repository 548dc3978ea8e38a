"""The sample site's settings, with room for the suite's largest messages."""

from sample_site.settings import *  # noqa: F403

DEBUG = False
WEBSOCKET_MAX_MESSAGE_SIZE = 16 * 2**20
