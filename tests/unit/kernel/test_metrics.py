"""The numbers, as Prometheus reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from allod import __version__
from allod.kernel.metrics import Metrics


def test_all_numbers_can_be_read_and_are_allod_s_own() -> None:
    families = list(text_string_to_metric_families(Metrics().text().decode()))
    assert len(families) >= 14
    assert all(family.name.startswith("allod_") and family.documentation for family in families)


def test_the_version_is_a_label() -> None:
    assert f'allod_build_info{{version="{__version__}"}} 1.0' in Metrics().text().decode()


def test_two_servers_in_one_process_do_not_share_numbers() -> None:
    one, other = Metrics(), Metrics()
    one.evictions.labels("idle").inc()
    assert b'allod_model_evictions_total{reason="idle"} 1.0' in one.text()
    assert b'reason="idle"' not in other.text()


def test_a_strange_model_name_breaks_no_line() -> None:
    metrics = Metrics()
    metrics.restarts.labels('a"b\nc\\d').inc()
    (family,) = [
        family
        for family in text_string_to_metric_families(metrics.text().decode())
        if family.name == "allod_worker_restarts"
    ]
    assert family.samples[0].labels == {"model": 'a"b\nc\\d'}
