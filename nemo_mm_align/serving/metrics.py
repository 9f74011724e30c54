"""What ``/metrics`` tells: vLLM's names under a prefix of our own, so that its dashboards fit after one replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nemo_mm_align.inference.engine import Figures

PREFIX = "nemo_mm_align_"

_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_NEXT_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
"""Upper ends in seconds, as vLLM has them."""


class _EngineFigures(Collector):
    """How the engine stands at the moment of asking."""

    def __init__(self, model: str, figures: Callable[[], Figures]) -> None:
        self._model, self._figures = model, figures

    def collect(self) -> Iterator[Metric]:
        """Yield gauges and counters of the engine."""
        now = self._figures()
        yield self._gauge("num_requests_running", "Requests that are being answered.", now.running)
        yield self._gauge("num_requests_waiting", "Requests that wait for room.", now.waiting)
        yield self._gauge("kv_cache_usage_perc", "Share of the slots that answers lie in; 1 is all.", now.cache_usage)
        yield self._counter("prefix_cache_queries", "Positions of all prompts.", now.prefix_queries)
        yield self._counter("prefix_cache_hits", "Positions of prompts that were kept.", now.prefix_hits)
        yield self._counter("mm_cache_queries", "Pictures in what had to be computed.", now.image_queries)
        yield self._counter("mm_cache_hits", "Pictures of these whose embeddings were kept.", now.image_hits)

    def _gauge(self, name: str, says: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"{PREFIX}{name}", says, labels=["model_name"])
        family.add_metric([self._model], value)
        return family

    def _counter(self, name: str, says: str, value: float) -> Metric:
        family = CounterMetricFamily(f"{PREFIX}{name}", says, labels=["model_name"])
        family.add_metric([self._model], value)
        return family


class ServerMetrics:
    """Counters and histograms of one server, in a registry of its own.

    Args:
        model: name under which it is served.
        figures: of the engine.
        slots: answers at a time.
    """

    def __init__(self, model: str, figures: Callable[[], Figures], slots: int) -> None:
        self._model, self._figures, self._slots = model, figures, slots
        self.registry = CollectorRegistry()
        self.registry.register(_EngineFigures(model, figures))
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of the prompts of requests that were taken in.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens of answers.")
        self._success = self._counter("request_success", "Answers that have ended, by why.", "finished_reason")
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From a request to its first token.", _FIRST_TOKEN
        )
        self._next_token = self._histogram("inter_token_latency_seconds", "From a token to the next one.", _NEXT_TOKEN)
        self._whole = self._histogram("e2e_request_latency_seconds", "From a request to its end.", _REQUEST)
        self._queue = self._histogram("request_queue_time_seconds", "From a request to its admission.", _REQUEST)
        self._ended, self._seconds = 0, 0.0

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}{name}", says, ["model_name", *labels], registry=self.registry)

    def _histogram(self, name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}{name}", says, ["model_name"], buckets=buckets, registry=self.registry)

    def taken_in(self, prompt_tokens: int) -> None:
        """Count a request that the engine has taken."""
        self._prompt_tokens.labels(self._model).inc(prompt_tokens)

    def admitted(self, seconds: float) -> None:
        """Count how long one has waited for room."""
        self._queue.labels(self._model).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Count a first token, so long after its request."""
        self._first_token.labels(self._model).observe(seconds)

    def next_token(self, seconds: float) -> None:
        """Count a further token, so long after the one before."""
        self._next_token.labels(self._model).observe(seconds)

    def answered(self, reason: str, tokens: int) -> None:
        """Count an answer that has ended."""
        self._success.labels(self._model, reason).inc()
        self._generation_tokens.labels(self._model).inc(tokens)

    def ended(self, seconds: float) -> None:
        """Count a request that is answered wholly."""
        self._whole.labels(self._model).observe(seconds)
        self._ended, self._seconds = self._ended + 1, self._seconds + seconds

    @property
    def expected_wait(self) -> int:
        """Seconds until what waits now will have got room, by what requests have taken so far; at least 1."""
        mean = self._seconds / self._ended if self._ended else 1.0
        return max(1, min(60, round(mean * (self._figures().waiting + 1) / self._slots)))

    def page(self) -> bytes:
        """Return all of it in Prometheus' text form."""
        return generate_latest(self.registry)
