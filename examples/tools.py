"""An MCP server on standard input and output, the commonest kind. It knows nothing of Hopseal.

Behind a socket: ``hopseal serve-stdio --listen /run/agents/desk/tools.sock -- python tools.py``.
"""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

OPENING_HOURS = {"monday": "9 to 5", "sunday": "closed"}

server = MCPServer("tools")


@server.tool()
def opening_hours(day: str) -> str:
    """When the desk is open on a day of the week."""
    return OPENING_HOURS.get(day.lower(), "9 to 4")


if __name__ == "__main__":
    server.run("stdio")
