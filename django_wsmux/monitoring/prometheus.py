"""Metrics of all processes for Prometheus; ``pip install "django-wsmux[prometheus]"``.

The worker that is scraped asks the others, so one target shows all of them, without files and
without ``PROMETHEUS_MULTIPROC_DIR``. Each series belongs to one process, named by the label
``worker``, and ends with it; series are not added up, since such a sum could fall. So in queries,
compute rates first and sum them::

    sum(rate(django_wsmux_messages_received_total[5m]))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ..connection.counters import COUNTERS
from ..connection.turns import HANDLER_BOUNDS
from .metrics import GAUGES
from .overview import Process, collect

__all__ = ["WebSocketCollector", "metrics_view"]

_PREFIX: Final = "django_wsmux_"
_REFUSED: Final = "refused_"

_NAMES: Final = {"open": "open_sockets"}


class WebSocketCollector(Collector):
    """Collects ``metrics.snapshot()`` from all processes.

    For a project that has metrics of its own::

        from prometheus_client import REGISTRY
        REGISTRY.register(WebSocketCollector())

    ``prometheus_client``'s multi-process mode reads files and ignores collectors in ``REGISTRY``:
    register it with the registry of the ``MultiProcessCollector`` instead.
    """

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values, for a registry that checks for duplicate names."""
        return list(_families([]))

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of all processes that answer within a second."""
        return list(_families(collect().processes))


def _families(processes: Iterable[Process]) -> Iterator[Metric]:
    by_worker = {process.name: process.counters for process in processes}
    for name, what in GAUGES.items():
        gauge = GaugeMetricFamily(_PREFIX + _NAMES.get(name, name), what, labels=["worker"])
        for worker, counters in by_worker.items():
            gauge.add_metric([worker], counters.get(name, 0))
        yield gauge
    refused = CounterMetricFamily(
        f"{_PREFIX}handshakes_refused_by_reason",
        "handshakes refused, by limit or check",
        labels=["worker", "reason"],
    )
    for name, what in COUNTERS.items():
        reason = name.removeprefix(_REFUSED)
        is_refusal = reason != name
        labels = [reason] if is_refusal else []
        metric = (
            refused if is_refusal else CounterMetricFamily(_PREFIX + name, what, labels=["worker"])
        )
        for worker, counters in by_worker.items():
            metric.add_metric([worker, *labels], counters.get(name, 0))
        if not is_refusal:
            yield metric
    yield refused
    yield _histogram(by_worker)


def _histogram(by_worker: Mapping[str, Mapping[str, float]]) -> Metric:
    histogram = HistogramMetricFamily(
        f"{_PREFIX}handler_seconds",
        "seconds that event views took to handle a message, including waits",
        labels=["worker"],
    )
    for worker, counters in by_worker.items():
        buckets = [
            (str(bound), counters.get(f"handler_calls_within_{bound:g}", 0))
            for bound in HANDLER_BOUNDS
        ]
        buckets.append(("+Inf", counters.get("handler_calls", 0)))
        histogram.add_metric([worker], buckets, counters.get("handler_seconds", 0))
    return histogram


_registry: Final = CollectorRegistry()
_registry.register(WebSocketCollector())


@require_safe
def metrics_view(request: HttpRequest) -> HttpResponse:
    """Return the metrics for Prometheus; mount it where only Prometheus has access.

    ::

        path("metrics", django_wsmux.monitoring.prometheus.metrics_view)
    """
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(_registry), content_type=content_type)
