import pytest

from supervisor.observability.metrics import LatencyHistogram, engine_call_label


@pytest.mark.parametrize(
    ("what", "label"),
    [
        ("POST /containers/create", "POST containers create"),
        ("POST /containers/ts-session-1/start", "POST containers start"),
        ("GET /containers/0123/json", "GET containers json"),
        ("DELETE /containers/start", "DELETE containers start"),
        ("DELETE /containers/ts-session-1", "DELETE containers"),
        ("GET /images/registry.example/a/b:latest/json", "GET images json"),
        ("GET /_ping", "GET _ping"),
        ("GET /whatever/somebody/made/up", "GET other"),
    ],
)
def test_names_do_not_become_labels(what: str, label: str) -> None:
    assert engine_call_label(what) == label


def test_the_latency_histogram_counts_like_one_of_the_library() -> None:
    histogram = LatencyHistogram("t", "A test.", (0.1, 1))
    for seconds in (0.05, 0.1, 0.5, 7):
        histogram.observe(seconds)
    (family,) = histogram.collect()
    values = {sample.labels.get("le", sample.name): sample.value for sample in family.samples}
    assert values == {"0.1": 2, "1": 3, "+Inf": 4, "t_count": 4, "t_sum": pytest.approx(7.65)}
