"""The settings with a Content Security Policy: of django-csp, or of Django (since 6.0)."""

import os
from typing import Any

from .settings import *  # noqa: F403
from .settings import MIDDLEWARE, TEMPLATES

NONCE: Any
NONE: Any
SELF: Any

if os.environ["TEST_CSP"] == "django-csp":
    from csp import constants

    NONCE, NONE, SELF = constants.NONCE, constants.NONE, constants.SELF
    MIDDLEWARE = ["csp.middleware.CSPMiddleware", *MIDDLEWARE]
else:
    from django.utils.csp import CSP

    NONCE, NONE, SELF = CSP.NONCE, CSP.NONE, CSP.SELF
    MIDDLEWARE = ["django.middleware.csp.ContentSecurityPolicyMiddleware", *MIDDLEWARE]
    processors = TEMPLATES[0]["OPTIONS"]["context_processors"]  # type: ignore[index]
    processors.append("django.template.context_processors.csp")

SECURE_CSP = {
    "default-src": [NONE],
    "script-src": [NONCE],
    "worker-src": [SELF],
    "connect-src": [SELF],
    "img-src": [SELF],  # Firefox asks for a favicon.
}
CONTENT_SECURITY_POLICY = {"DIRECTIVES": SECURE_CSP}
