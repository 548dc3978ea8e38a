"""Metrics of all processes for Prometheus; ``pip install "django-wsmux[prometheus]"``.

Whichever worker is scraped asks the others, so one target shows them all, with no files and no
``PROMETHEUS_MULTIPROC_DIR``. Each series belongs to one process, by the label ``worker``: one that
has ended takes its series along, and nothing is added up that could fall. So in queries take rates
first and sums then::

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

from .metrics import GAUGES
from .overview import Process, look
from .server.counters import COUNTERS, HANDLER_BOUNDS

__all__ = ["WebSocketCollector", "metrics_view"]

_PREFIX: Final = "django_wsmux_"
_REFUSED: Final = "refused_"

_NAMES: Final = {"open": "open_sockets"}


class WebSocketCollector(Collector):
    """Everything in ``metrics.snapshot()``, of all processes.

    For a project that has metrics of its own::

        from prometheus_client import REGISTRY
        REGISTRY.register(WebSocketCollector())

    ``prometheus_client``'s multi-process mode reads files and knows no collectors: there register
    it with the registry that the ``MultiProcessCollector`` is registered with.
    """

    def describe(self) -> Iterable[Metric]:
        """Return what there will be, for a registry that looks for clashes of names."""
        return list(_families([]))

    def collect(self) -> Iterable[Metric]:
        """Ask all processes. One that does not answer within a second is missing."""
        return list(_families(look().processes))


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
    """Show the metrics to Prometheus; to be mounted where only it gets at them.

    ::

        path("metrics", django_wsmux.prometheus.metrics_view)
    """
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(_registry), content_type=content_type)
