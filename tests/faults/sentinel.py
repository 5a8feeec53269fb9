"""Redis Sentinel, which makes a replica the master when the master is gone."""

from __future__ import annotations

from typing import Any

import redis as redis_py

from tests.servers import RedisServer
from tests.servers.process import Server

SERVICE = "jobs"

#: Milliseconds of silence after which a master counts as gone.
_DOWN_AFTER_MS = 400


class SentinelServer(Server):
    """One Sentinel that alone decides about the service `jobs`."""

    def __init__(self, master: RedisServer) -> None:
        self._binary = RedisServer.find_binary()
        super().__init__()
        self._config = self.folder / "sentinel.conf"
        self._master_port = master.port

    @property
    def url(self) -> str:
        """For the configuration."""
        return f"redis+sentinel://127.0.0.1:{self.port}/{SERVICE}/0"

    def command(self) -> list[str]:
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._master_port} 1",
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        self._config.write_text("\n".join(lines) + "\n")
        return [self._binary, str(self._config), "--sentinel"]

    def is_ready(self) -> bool:
        with self._client() as client:
            try:
                return bool(client.sentinel_get_master_addr_by_name(SERVICE))
            except redis_py.RedisError:
                return False

    def knows_replica(self) -> bool:
        """Whether it could fail over: it has found a replica that follows."""
        with self._client() as client:
            replicas: list[dict[str, Any]] = client.sentinel_slaves(SERVICE)
        return any(replica["master-link-status"] == "ok" for replica in replicas)

    def forget_connections(self) -> None:
        pass

    def _client(self) -> redis_py.Redis:
        return redis_py.Redis(host="127.0.0.1", port=self.port, socket_timeout=5)
