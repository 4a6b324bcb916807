"""Readings by way of Ray: every node has an endpoint that Prometheus asks, and so has the driver's.

Needs a Ray that this process has joined; a private one collects no metrics.
"""

from ray.util.metrics import Counter, Gauge

from orchestrator.launch.meters import METRICS, Kind, Reading, Sink


def open_ray_sink() -> Sink:
    """A sink that hands readings to Ray's core in this process; it waits for nobody."""
    gauges = {
        one.name: Gauge(one.name, description=one.text, tag_keys=one.tags)
        for one in METRICS
        if one.kind is Kind.GAUGE
    }
    counters = {
        one.name: Counter(one.name, description=one.text, tag_keys=one.tags)
        for one in METRICS
        if one.kind is Kind.COUNTER
    }

    def put(reading: Reading) -> None:
        name, tags = reading.metric.name, dict(reading.tags)
        match reading.metric.kind:
            case Kind.GAUGE:
                gauges[name].set(reading.value, tags=tags)
            case Kind.COUNTER:
                counters[name].inc(reading.value, tags=tags)

    return put
