"""Two hosts on this machine: network namespaces joined by a virtual link. Needs root and iproute2."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """A network namespace with one interface, and its loopback."""

    name: str
    interface: str
    address: str

    def start(self, command: list[str], environment: dict[str, str], output) -> subprocess.Popen:
        """A process that sees this host's network and no other."""
        words = ["ip", "netns", "exec", self.name, *command]
        return subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def processes(self) -> list[int]:
        """Ids of the processes that run here."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(word) for word in listed.stdout.split()]

    def kill(self) -> None:
        """SIGKILL to everything that runs here, until nothing does."""
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Hosts 10.231.0.1 and 10.231.0.2. What runs on them is killed at the end, and they are gone.

    Raises: OSError where the machine forbids it, with what `ip` said.
    """
    hosts = tuple(Host(f"gaze-{os.getpid()}-{n}", f"gz{os.getpid() % 10**6}n{n}", f"10.231.0.{n + 1}") for n in (0, 1))
    with contextlib.ExitStack() as stack:
        for host in hosts:
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "delete", host.name)
            stack.callback(host.kill)
        _ip("link", "add", hosts[0].interface, "type", "veth", "peer", "name", hosts[1].interface)
        with contextlib.ExitStack() as until_moved:
            until_moved.callback(_ip, "link", "delete", hosts[0].interface)
            for host in hosts:
                _ip("link", "set", host.interface, "netns", host.name)
            until_moved.pop_all()
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
            _ip("-n", host.name, "link", "set", "lo", "up")
            _ip("-n", host.name, "link", "set", host.interface, "up")
        yield hosts


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise OSError(f"ip {' '.join(words)}: {error.stderr.strip()}") from error
