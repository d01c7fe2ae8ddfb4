"""The components of the platform: who there is, who needs whom, and how each is started."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from .alerts import AlertRules
from .client import ClientSettings
from .data_plane import FEATURE_PIPELINE, ROWS, STREAM, TO_STREAM, WRITES, data_commands, data_routes
from .feature_store import FeatureStoreSettings
from .gateway import GatewaySettings
from .handle import Component
from .layout import Layout
from .model_server import MODEL_SERVER, PREDICT_PATH, ModelServerSettings
from .plain_process import PlainProcess
from .ports import LOOPBACK, Ports
from .settings import StagingSettings
from .training_job import RANKS, TRAINER, TrainingSettings

GATEWAY = "gateway"
FEATURE_STORE = "feature-store"
CLIENT = "client"
MONITOR = "monitor"
FAULT_PROXY = "fault-proxy"

_TO_MODEL_SERVER = f"{GATEWAY}->{MODEL_SERVER}"
_TO_FEATURE_STORE = f"{MODEL_SERVER}->{FEATURE_STORE}"
_OPTED_IN = {"backburn.dev/enabled": "true"}
_ON_HOST = "host"
_MOST_IN_FLIGHT = 12
"""At a hardened gateway: what the model servers take on at once, and a few that wait for their turn. What waits longer
than a client does is not worth waiting."""


def described(settings: StagingSettings) -> dict[str, Component]:
    """Returns every component as the handle describes it, still without instances."""
    two_if_hardened = 2 if settings.switches.serving_replicas == "hardened" else 1
    return {
        GATEWAY: _component(GATEWAY, 1, needs=(MODEL_SERVER,)),
        MODEL_SERVER: _component(
            MODEL_SERVER, two_if_hardened, needs=(FEATURE_STORE,), routes=(_TO_MODEL_SERVER,), node="serving"
        ),
        FEATURE_STORE: _component(FEATURE_STORE, 1, needs=(FEATURE_PIPELINE,), routes=(_TO_FEATURE_STORE, WRITES)),
        TRAINER: _component(TRAINER, RANKS, node="training"),
        STREAM: _component(STREAM, 1, routes=(ROWS, TO_STREAM), feeds=(ROWS,)),
        FEATURE_PIPELINE: _component(FEATURE_PIPELINE, 1, needs=(STREAM,)),
    }


def alert_rules(settings: StagingSettings) -> AlertRules:
    """Returns the rules by which the platform tells of its own troubles."""
    told_to_expect = settings.switches.monitoring_absent_alert == "hardened"
    return AlertRules(tuple(described(settings)) if told_to_expect else (), TRAINER)


def plain_processes(settings: StagingSettings, layout: Layout, ports: Ports) -> dict[str, PlainProcess]:
    """Returns what runs as a plain process, by name, not started yet."""
    routes = {
        _TO_MODEL_SERVER: (ports.to_model_server, ports.model_server),
        _TO_FEATURE_STORE: (ports.to_feature_store, ports.feature_store),
        **data_routes(ports),
    }
    # The fault proxy is not part of the platform's code: it is a tool on its edges, known by its command line alone.
    proxy = ["-m", "actuators.proxy", "--control", str(layout.proxy_socket)]
    for route, (listens_on, leads_to) in routes.items():
        proxy += ["--route", f"{route}={listens_on}:{leads_to}"]
    traces = str(layout.traces)
    says_so = settings.switches.features_freshness == "hardened"
    store = FeatureStoreSettings(
        port=ports.feature_store,
        seed=settings.seed,
        fresh_for_s=settings.features_fresh_for_s if says_so else None,
        traces=traces,
    )
    gateway = GatewaySettings(
        port=ports.gateway,
        upstream_url=f"http://{LOOPBACK}:{ports.to_model_server}{PREDICT_PATH}",
        upstream_timeout_s=settings.upstream_timeout_s,
        traces=traces,
        most_in_flight=_MOST_IN_FLIGHT if settings.switches.serving_queue == "hardened" else None,
    )
    client = ClientSettings(
        port=ports.client,
        url=f"http://{LOOPBACK}:{ports.gateway}{PREDICT_PATH}",
        requests_per_s=settings.requests_per_s,
        timeout_s=settings.client_timeout_s,
        seed=settings.seed,
        traces=traces,
    )
    commands: Mapping[str, tuple[Sequence[str], str]] = {
        FAULT_PROXY: (proxy, ""),
        FEATURE_STORE: (["-m", f"{__package__}.feature_store"], json.dumps(asdict(store))),
        GATEWAY: (["-m", f"{__package__}.gateway"], json.dumps(asdict(gateway))),
        CLIENT: (["-m", f"{__package__}.client"], json.dumps(asdict(client))),
        **data_commands(settings, layout, ports),
    }
    return {
        name: PlainProcess(name, [sys.executable, *command], stdin, layout.log(name), settings.restart_delay_s)
        for name, (command, stdin) in commands.items()
    }


def model_server_settings(settings: StagingSettings, layout: Layout, ports: Ports) -> ModelServerSettings:
    """Returns what every replica of the model server needs to know."""
    bounded = settings.switches.serving_feature_timeout == "hardened"
    return ModelServerSettings(
        registry=layout.registry,
        announcements=layout.announcements,
        log=layout.log(MODEL_SERVER),
        features_url=f"http://{LOOPBACK}:{ports.to_feature_store}",
        verified=settings.switches.registry_verify == "hardened",
        answers_to_be_well=settings.switches.serving_health == "hardened",
        canary=settings.switches.deploy_canary_gate == "hardened",
        feature_timeout_s=settings.feature_timeout_s if bounded else None,
        budgeted_retries=settings.switches.serving_retries == "hardened",
        seed=settings.seed,
        traces=layout.traces,
        known_features=layout.known_features,
    )


def training_settings(settings: StagingSettings, layout: Layout) -> TrainingSettings:
    """Returns what the training job and its ranks need to know."""
    return TrainingSettings(
        checkpoints=layout.checkpoints,
        registry=layout.registry,
        announcements=layout.announcements,
        runs=layout.training_runs,
        log=layout.log(TRAINER),
        seed=settings.seed,
        steps_per_s=settings.steps_per_s,
        checkpoint_every_s=settings.checkpoint_every_s,
        publish_every_s=settings.publish_every_s,
        verified_checkpoints=settings.switches.training_checkpoint == "hardened",
        resumes=settings.switches.training_restart == "hardened",
    )


def _component(
    name: str,
    desired: int,
    needs: tuple[str, ...] = (),
    routes: tuple[str, ...] = (),
    node: str = _ON_HOST,
    feeds: tuple[str, ...] = (),
) -> Component:
    return Component(
        role=name, labels=_OPTED_IN, depends_on=needs, desired=desired, routes_in=routes, node=node, feeds=feeds
    )
