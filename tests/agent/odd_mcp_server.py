"""An MCP server for tests that never answers a call, or has an odd list of tools; a program.

Written by hand, because no library would let it, and because it starts at once.
"""

import json
import sys
from typing import Any

seen: list[str] = []


def result_of(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the server answers; None where it does not."""
    if method == "initialize":
        version = params["protocolVersion"]
        server = {"name": "odd", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
    if method == "tools/list" and "pages" in sys.argv:
        return {"tools": [], "nextCursor": "more"}
    if method == "tools/list" and "no-list" not in sys.argv:
        schema = {"type": "object"}
        return {"tools": [{"name": name, "inputSchema": schema} for name in ("hang", "seen")]}
    if method == "tools/call" and params["name"] == "seen":
        return {"content": [{"type": "text", "text": " ".join(seen)}]}
    return None


for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method", "")
    seen.append(method)
    if "id" not in message:
        continue
    result = result_of(method, message.get("params") or {})
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
    if result is not None:
        print(json.dumps({**answer, "result": result}), flush=True)
    elif method != "tools/call":
        error = {"code": -32601, "message": "no such method"}
        print(json.dumps({**answer, "error": error}), flush=True)
