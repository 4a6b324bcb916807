"""Hosts with addresses of their own on this machine: network namespaces on one switch."""

import os
import shutil
import subprocess
from contextlib import suppress
from typing import Self


def why_not() -> str | None:
    """What this machine lacks for it; None if nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "unshare", "bash"):
        if shutil.which(tool) is None:
            return f"{tool} not found, wanted: iproute2, util-linux and bash"
    name = f"rushes{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    _ip("netns", "delete", name)
    return None


class Network:
    """A switch, this machine at its first address, and hosts at those after it.

    Args:
        hosts: their names.
    """

    def __init__(self, *hosts: str) -> None:
        self._mark = os.getpid()
        self._net = f"10.213.{self._mark % 250}"
        self._hosts = hosts
        self.here = f"{self._net}.1"

    def __enter__(self) -> Self:
        self.close()  # what a test of this number left
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address(self, host: str) -> str:
        """Of a host."""
        return f"{self._net}.{10 + self._hosts.index(host)}"

    def inside(self, host: str) -> tuple[str, ...]:
        """The start of a command that runs in a host's network."""
        return ("ip", "netns", "exec", self._space(host))

    def cut(self, host: str) -> None:
        """Unplugs a host: what it sends is lost, and what is sent to it; nobody is told."""
        _ip("-n", self._space("switch"), "link", "set", self._cable(host), "down")

    def mend(self, host: str) -> None:
        """Plugs it in again."""
        _ip("-n", self._space("switch"), "link", "set", self._cable(host), "up")

    def close(self) -> None:
        """Removes all of it; cables go with their ends, the one to here at once."""
        with suppress(subprocess.CalledProcessError):
            _ip("link", "delete", self._cable("here") + "e")
        for host in (*self._hosts, "switch"):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", self._space(host))

    def _make(self) -> None:
        switch = self._space("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        mine = self._cable("here") + "e"
        self._plug("here", mine)
        _ip("address", "add", f"{self.here}/24", "dev", mine)
        _ip("link", "set", mine, "up")
        for host in self._hosts:
            space = self._space(host)
            _ip("netns", "add", space)
            self._plug(host, "eth0", "netns", space)
            _ip("-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", space, "link", "set", link, "up")

    def _plug(self, host: str, end: str, *where: str) -> None:
        switch, cable = self._space("switch"), self._cable(host)
        veth = ("link", "add", cable, "netns", switch, "type", "veth", "peer", "name")
        _ip(*veth, end, *where)
        _ip("-n", switch, "link", "set", cable, "master", "bridge", "up")

    def _space(self, host: str) -> str:
        return f"rushes{self._mark}-{host}"

    def _cable(self, host: str) -> str:
        """At most 15 characters."""
        number = 9 if host == "here" else self._hosts.index(host)
        return f"r{self._mark}c{number}"


def _ip(*args: str) -> None:
    subprocess.run(("ip", *args), check=True, capture_output=True, text=True)
