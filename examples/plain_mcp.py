"""The MCP client, unchanged: ``hopseal run -- python plain_mcp.py``."""

from __future__ import annotations

import asyncio

from mcp import Client


async def main() -> None:
    """List the tools and call one."""
    async with Client("http://tools.desk/mcp") as client:
        print([tool.name for tool in (await client.list_tools()).tools])
        print((await client.call_tool("opening_hours", {"day": "sunday"})).content[0].text)


asyncio.run(main())
