"""What Ray is told through environment variables.

Ray reads most of them as it is imported, and every raylet inherits them; so they are set first of all.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping

from .layout import Layout

_TOKEN_BYTES = 32


def write_token(layout: Layout) -> None:
    """Makes the secret without which nobody can talk to the cluster; only the owner of the platform may read it."""
    layout.ray_token.touch(mode=0o600)
    layout.ray_token.write_text(secrets.token_hex(_TOKEN_BYTES))


def prepare(environment: MutableMapping[str, str], layout: Layout, hang_timeout_s: float | None) -> None:
    """Sets the variables that must be set before the first raylet, and before Ray is imported.

    Args:
        environment: of the process that will start Ray.
        layout: where Ray's files go.
        hang_timeout_s: after which time of silence a rank counts as hung, seconds; None leaves it to Ray.
    """
    # A shell may point Ray at another cluster, even a productive one. Nothing of that applies here.
    for name in [name for name in environment if name.startswith("RAY_")]:
        del environment[name]
    environment.update(
        {
            # Ray makes its folder here, `layout.ray`. Its "current cluster" file would else be found by strangers.
            "RAY_TMPDIR": str(layout.root),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(layout.ray_token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: keeps it to loopback
            "RAY_enable_metrics_collection": "0",
            # A dead node is noticed after three seconds, not thirty.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
            "RAY_TRAIN_METRICS_ENABLED": "0",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes nodes away here, and it costs a process
            "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
    )
    if hang_timeout_s is not None:
        environment["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = f"{hang_timeout_s:g}"
