"""Progress where nobody watches: one line at the end, and in a long run a line now and then."""

import logging
import re

import pytest

from polygene.runtime.progress import progress


@pytest.fixture(autouse=True)
def _all_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "polygene")


def test_without_a_terminal_there_is_one_line_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with progress(30, done="annotated", device="cpu") as advance:
        for _ in range(3):
            advance(10)
    (line,) = caplog.messages
    assert re.fullmatch(r"annotated 30 cells on cpu, [\d,]+ cells/s", line)


def test_a_long_run_says_now_and_then_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with progress(30, done="trained", every=0) as advance:
        advance(10, "loss 1.5")
        advance(10)
    first, second = caplog.messages
    assert re.fullmatch(r"trained 10 of 30 cells, [\d,]+ cells/s loss 1\.5", first)
    assert second.startswith("trained 20 of 30 cells")


def test_idle_seconds_do_not_count_for_the_speed() -> None:
    with progress(10, done="trained") as advance:
        advance._started -= 100
        advance(1_000, idle=90)
        assert advance.speed() == "100 cells/s"


def test_a_failure_has_no_line_that_says_it_is_done(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError), progress(10, done="annotated"):
        raise ZeroDivisionError
    assert caplog.messages == []
