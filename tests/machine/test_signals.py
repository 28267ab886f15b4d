"""The first signal asks for a stop in good order, a second Ctrl-C does not wait for it."""

from __future__ import annotations

import signal
import threading

import pytest

from sparring.machine.signals import interrupted_by_signals, signals_left_alone, stopping_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_for_a_stop_and_the_handlers_of_before_come_back(number: signal.Signals) -> None:
    outside, reasons = signal.signal(number, signal.default_int_handler), list[str]()  # ignored under nohup
    try:
        with stopping_on_signals(reasons.append):
            signal.raise_signal(number)
            assert reasons == ["interrupted"]
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, outside)


def test_a_terminal_that_goes_away_is_no_reason_to_stop_under_nohup() -> None:
    before, reasons = signal.signal(signal.SIGHUP, signal.SIG_IGN), list[str]()
    try:
        with stopping_on_signals(reasons.append):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert reasons == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_where_nothing_else_handles_them_other_signals_interrupt_as_ctrl_c_does(number: signal.Signals) -> None:
    outside = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
            with signals_left_alone():
                signal.signal(number, lambda *_: None)  # as Ray does
            signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)
        with interrupted_by_signals():
            signal.raise_signal(number)
    finally:
        signal.signal(number, outside)


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    before, reasons = signal.getsignal(signal.SIGINT), list[str]()
    with pytest.raises(KeyboardInterrupt), stopping_on_signals(reasons.append):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert reasons == ["interrupted"] and signal.getsignal(signal.SIGINT) == before


def test_another_thread_leaves_the_handlers_alone_as_python_demands() -> None:
    before, seen = signal.getsignal(signal.SIGINT), list[object]()

    def work() -> None:
        with stopping_on_signals(lambda reason: None), interrupted_by_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
