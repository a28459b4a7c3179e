"""A real Chromium without a window, driven by its DevTools protocol: as much of it as the tests need."""

import asyncio
import base64
import itertools
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

# The background networking of a browser that has just been installed has nowhere to go here.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-popup-blocking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_PATIENCE = 20.0


def chromium_path() -> str | None:
    """Where Chromium is, None if there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tab:
    """One page."""

    def __init__(self, browser: "Chromium", session: str) -> None:
        self._browser = browser
        self._session = session

    async def call(self, method: str, **parameters: object) -> Any:
        """One command of the protocol."""
        return await self._browser.call(method, self._session, **parameters)

    async def goto(self, url: str) -> None:
        """Go somewhere, and wait until the last page of the way is there."""
        before = await self.run("performance.timeOrigin")
        await self.call("Page.navigate", url=url)
        await self.until(f"performance.timeOrigin !== {before} && document.readyState === 'complete'")

    async def press(self, button: str) -> None:
        """Click what a selector names, and wait for the next page."""
        before = await self.run("performance.timeOrigin")
        await self.run(f"document.querySelector({json.dumps(button)}).click()")
        await self.until(f"performance.timeOrigin !== {before} && document.readyState === 'complete'")

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            try:
                if await self.run(condition):
                    return
            except ProtocolError:
                pass  # the page is just changing
            assert asyncio.get_running_loop().time() < deadline, f"never true: {condition}"
            await asyncio.sleep(0.05)

    async def text(self) -> str:
        """What a person can read."""
        return str(await self.run("document.body.innerText"))

    async def address(self) -> str:
        return str(await self.run("location.href"))

    async def picture(self, path: Path, *, dark: bool = False, width: int = 900, height: int = 640) -> None:
        """Take a picture of what a person sees."""
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        shot = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


class ProtocolError(Exception):
    """Chromium refused a command."""


class Chromium:
    """A running browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.console: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def call(self, method: str, session: str | None = None, **parameters: object) -> Any:
        """One command of the protocol, and its result."""
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        return await asyncio.wait_for(answer, _PATIENCE)

    async def new_tab(self) -> Tab:
        """A tab in a browser that has never been anywhere: no cookies, no history."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        return await self._attached(target["targetId"])

    async def tabs(self, wanted: Callable[[str], bool]) -> list[str]:
        """Ids of the pages whose address is wanted."""
        found = await self.call("Target.getTargets")
        return [
            target["targetId"]
            for target in found["targetInfos"]
            if target["type"] == "page" and wanted(target["url"])
        ]

    async def opened(self, wanted: Callable[[str], bool]) -> Tab:
        """The tab that a page has opened, once it is there."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while not (found := await self.tabs(wanted)):
            assert asyncio.get_running_loop().time() < deadline, "no window was opened"
            await asyncio.sleep(0.05)
        return await self._attached(found[0])

    async def _attached(self, target: str) -> Tab:
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log"):
            await tab.call(f"{domain}.enable")
        return tab

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if message.get("method") == "Log.entryAdded":
                self.console.append(message["params"]["entry"]["text"])
            elif message.get("method") == "Runtime.exceptionThrown":
                self.console.append(str(message["params"]["exceptionDetails"]["text"]))
            waiting = self._waiting.pop(message.get("id", 0), None)
            if waiting is None or waiting.done():
                continue
            if "error" in message:
                waiting.set_exception(ProtocolError(message["error"]["message"]))
            else:
                waiting.set_result(message["result"])

    async def close(self) -> None:
        """End the browser by its own means: it tidies up what it has put into the folder for temporary files."""
        await self.call("Browser.close")
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


@asynccontextmanager
async def running_chromium(path: str, profile: Path) -> AsyncIterator[Chromium]:
    """A Chromium with a new profile; gone when the block ends."""
    process = await asyncio.create_subprocess_exec(
        path,
        *_FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={
            name: value for name, value in os.environ.items() if not name.startswith(("KOMMO_", "PREFECT_"))
        },
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while not (found := re.search(rb"listening on (ws://\S+)", await process.stderr.readline())):
                pass
        draining = asyncio.create_task(process.stderr.read())
        async with connect(found[1].decode(), max_size=None, proxy=None) as socket:
            browser = Chromium(socket)
            yield browser
            await browser.close()
        async with asyncio.timeout(10):
            await process.wait()
        draining.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
