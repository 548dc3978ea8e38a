"""Private: the types of messages, as JSON Schema and TypeScript.

Only ``manage.py websocketschema`` imports it. What a schema for incoming messages accepts, the form
or dataclass accepts; a schema may be narrower. Where a check cannot be expressed, ``$comment`` says
so.
"""

__all__: list[str] = []
